"""What a client's update gives away: attacks in turn, within a time, told apart by how they end."""

from dataclasses import dataclass, replace

import pytest
import torch

from fedspill import catalogue
from fedspill.auditing import exposure
from fedspill.auditing.exposure import MeasuresExposure, judged
from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.inputs import ImageSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedSGD, local_update
from fedspill.core.rng import stream
from fedspill.core.roles import UNWATCHED, Attack, Card, Watch
from fedspill.core.types import Batch, Reconstruction, Update
from tests.support.worlds import CLASSES, batch, conv_bn, relu_mlp

F64 = torch.float64
LONG = MeasuresExposure(seconds=3600.0)


@dataclass(frozen=True)
class Ends:
    """An attack that ends in some way."""

    how: str = "fits not"

    def reconstruct(
        self, update: Update, knowledge: ServerKnowledge, rng: torch.Generator, watch: Watch = UNWATCHED
    ) -> Reconstruction:
        if self.how == "fits not":
            raise NotApplicable("no")
        if self.how == "raises":
            raise ZeroDivisionError("by 0\nand more")
        while self.how == "never":
            torch.ones(1).add(1)
        assert knowledge.labels is None, "a server is not told"
        return Reconstruction(torch.zeros(1, *knowledge.model.input.encoded_shape, dtype=F64))


def cards(monkeypatch: pytest.MonkeyPatch, **attacks: Attack) -> None:
    made = {
        n: Card[Attack](n, "none", "none", {"paper": a}, accepts=frozenset({ImageSpec})) for n, a in attacks.items()
    }
    monkeypatch.setattr(exposure.catalogue, "attacks", lambda: made)


def test_one_example_of_a_fully_connected_network_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    card = catalogue.attacks()["linear_layer"]
    monkeypatch.setattr(exposure.catalogue, "attacks", lambda: {"linear_layer": card})
    (found,) = LONG(relu_mlp(dtype=F64), batch(1, dtype=F64))
    assert (found.attack, found.read.tolist(), found.failed) == ("linear_layer:quick", [True], "")
    assert found.closest is not None
    assert found.closest >= 60
    assert "psnr" in found.criterion


def test_attacks_are_told_apart_by_how_they_end(monkeypatch: pytest.MonkeyPatch) -> None:
    cards(monkeypatch, fits=Ends("returns"), fits_not=Ends(), raises=Ends("raises"))
    fits, raises = LONG(relu_mlp(dtype=F64), batch(3, dtype=F64))
    assert (fits.attack, fits.read.tolist(), fits.failed) == ("fits:paper", [False] * 3, "")
    assert (raises.attack, raises.failed) == ("raises:paper", "ZeroDivisionError: by 0")


def test_one_that_never_ends_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    cards(monkeypatch, never=Ends("never"))
    (found,) = MeasuresExposure(seconds=0.05)(relu_mlp(dtype=F64), batch(2, dtype=F64))
    assert found.failed == "its share of the time ended"
    assert found.closest is None


def test_only_so_many_examples_unless_the_update_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    cards(monkeypatch, fits=Ends("returns"))
    model, data, few = relu_mlp(dtype=F64), batch(5, dtype=F64), replace(LONG, most=2)
    assert [len(e.read) for e in few(model, data)] == [2]
    update = local_update(model, data, FedSGD())
    assert [len(e.read) for e in few.of_update(update, model, data, FedSGD())] == [5]


def test_closed_forms_alone_of_honest_servers() -> None:
    knowledge = ServerKnowledge(conv_bn(), 1, 2, None, FedSGD())
    names = list(MeasuresExposure()._fitting(knowledge))  # pyright: ignore[reportPrivateUsage]
    assert {"linear_layer", "spear", "softmax_disaggregation", "nex"} <= set(names)
    assert not {"dlg", "inverting_gradients", "rgap", "tableak", "dager"} & set(names)
    assert "rgap" in MeasuresExposure()._fitting(replace(knowledge, num_examples=1))  # pyright: ignore[reportPrivateUsage]


def test_dull_pictures_do_not_count_as_read() -> None:
    dull = 0.5 + 0.01 * batch(3, dtype=F64).inputs
    private, model = Batch(dull, torch.arange(3) % CLASSES), relu_mlp(dtype=F64)
    grey = Reconstruction(torch.full_like(dull, 0.5))
    read, closest, _ = judged(grey, private, model)
    assert closest is not None
    assert closest > 20
    assert read.tolist() == [False] * 3
    assert judged(Reconstruction(dull), private, model)[0].tolist() == [True] * 3
    nobody = judged(Reconstruction(dull[:0]), private, model)
    assert (nobody[0].tolist(), nobody[1]) == ([False] * 3, None)


@dataclass(frozen=True)
class OfTwo:
    """An attack that comes to a result for two examples alone."""

    fits_more: bool

    def reconstruct(
        self, update: Update, knowledge: ServerKnowledge, rng: torch.Generator, watch: Watch = UNWATCHED
    ) -> Reconstruction:
        if knowledge.num_examples == 2:
            return Ends("returns").reconstruct(update, knowledge, rng, watch)
        return Ends("raises" if self.fits_more else "fits not").reconstruct(update, knowledge, rng, watch)


@pytest.mark.parametrize("fits_more", [True, False])
def test_where_nothing_comes_of_all_examples_two_are_measured(monkeypatch: pytest.MonkeyPatch, fits_more: bool) -> None:
    cards(monkeypatch, small=OfTwo(fits_more))
    (found,) = LONG(relu_mlp(dtype=F64), batch(5, dtype=F64))
    assert (found.read.tolist(), found.failed) == ([False] * 2, "")


def test_an_imprint_that_somebody_planted_is_read_without_its_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    model, card = relu_mlp(dtype=F64), catalogue.attacks()["imprint_bins"]
    monkeypatch.setattr(exposure.catalogue, "attacks", lambda: {"imprint_bins": card})
    sent = catalogue.tamperings()["robbing_the_fed"].presets["quick"].tamper(model, None, 0, stream(0, "server")).model
    found = {one.attack: one for one in LONG(sent, batch(4, dtype=F64))}
    assert int(found["imprint_bins:quick"].read.sum()) >= 2


@pytest.mark.parametrize("fields", [{"seconds": 0.0}, {"most": 0}])
def test_fields_out_of_range_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(BadInput, match=next(iter(fields))):
        MeasuresExposure(**fields)  # pyright: ignore[reportArgumentType]
