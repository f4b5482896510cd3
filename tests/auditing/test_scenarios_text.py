"""Sentences as private data: from a plan to an update and an attack."""

from pathlib import Path

import pytest
import torch
from torch import nn

from fedspill.auditing import parse_plan, run_audit
from fedspill.auditing.resolving.scenario import prepare
from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.inputs import TokenSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedSGD, local_update
from fedspill.core.rng import stream
from fedspill.inversion.imprint.making import Bins
from fedspill.tamperings.robbing_the_fed import RobbingTheFed
from fedspill.zoo.data import from_tensors, from_tokens, load
from fedspill.zoo.data.cut import cut
from fedspill.zoo.models import build

CPU = torch.device("cpu")


def scenario(table: dict, **more):
    return prepare(parse_plan(table), CPU, **more)


def test_sentences_get_a_transformer_and_an_update() -> None:
    found = scenario(
        {"data": {"name": "sentences", "length": 12}, "client": {"num_examples": 3}, "model": {"width": 16}}
    )
    assert found.network == "transformer"
    assert found.model.input == TokenSpec(12, 256)
    assert local_update(found.model, found.private(0), FedSGD()).norm() > 0
    assert found.key(redact=False) == found.key(redact=False)


def test_public_sentences_are_cut_as_the_private_ones() -> None:
    table = {
        "data": {"name": "sentences", "length": 12},
        "server": {"public": {"name": "sentences", "split": "public"}},
    }
    found = scenario(table)
    assert found.public is not None
    assert found.public.spec == found.pool.spec
    table["server"]["public"]["length"] = 13
    with pytest.raises(
        BadInput, match="public examples are sentences of 13 tokens out of 256, private ones sentences of 12"
    ):
        scenario(table)
    table["server"]["public"] = {"name": "photos"}
    with pytest.raises(BadInput, match="public examples are images of shape"):
        scenario(table)


def test_public_sentences_hold_no_private_one(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("abab" + "cdab" + "abab" + "efgh" + "x")
    name = f"text:{tmp_path / 't.txt'}"
    table = {
        "data": {"name": name, "length": 4, "indices": "0:1"},
        "server": {"public": {"name": name, "indices": "1:4"}},
    }
    public = scenario(table).public
    assert public is not None
    assert public.indices == (1, 3)
    assert "without 1 that equal private ones" in public.source
    table["server"]["public"]["indices"] = "2"
    with pytest.raises(BadInput, match="all 1 public examples equal private ones"):
        scenario(table)
    table["server"]["public"]["indices"] = "0:2"
    with pytest.raises(BadInput, match="1 examples are both public and private"):
        scenario(table)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"model": {"name": "lenet"}}, "model 'lenet' takes images, not sentences; transformer, gpt would"),
        ({"model": {"name": "mlp"}}, "model 'mlp' takes images and table rows, not sentences"),
        ({"model": {"name": "timm:resnet18"}}, "'timm:resnet18' takes images, not sentences"),
        ({"model": {"normalise": False}}, "option normalise is of images; sentences bring their own"),
        ({"model": {"num_classes": 5}}, "predicts next tokens of a vocabulary of 256; 5 classes were got"),
        ({"client": {"distinct_labels": True}}, "distinct_labels needs one class per example; .* next tokens"),
    ],
)
def test_what_does_not_fit_sentences(table: dict, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        scenario({"data": {"name": "sentences", "length": 8}, **table})


def test_images_are_no_sentences() -> None:
    with pytest.raises(BadInput, match="model 'transformer' takes sentences, not images"):
        scenario({"model": {"name": "transformer"}})


def test_a_module_that_classifies_is_no_language_model() -> None:
    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(9, 4)
            self.head = nn.Linear(4, 3)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.head(self.embedding(tokens).mean(1))

    tokens = torch.randint(9, (4, 5), generator=stream(0, "test"))
    classes = from_tokens(tokens, torch.arange(4) % 3, vocabulary=9)
    with torch.random.fork_rng():
        bag = Bag()
    report = run_audit(parse_plan({}), model=bag, data=classes, device="cpu").report
    assert all(t.skipped for t in report.trials)
    with pytest.raises(BadInput, match="next tokens want logits at every token"):
        run_audit(parse_plan({}), model=bag, data=from_tokens(tokens, vocabulary=9), device="cpu")


def test_a_callers_model_must_take_what_the_data_are() -> None:
    pool = from_tokens(torch.randint(9, (4, 5), generator=stream(0, "test")), vocabulary=9)
    other = build("transformer", input_shape=(4,), num_classes=10, spec=TokenSpec(4, 10), options={"width": 8})
    with pytest.raises(BadInput, match="takes sentences of another encoding than the data's"):
        scenario({}, model=other, pool=pool)
    with pytest.raises(BadInput, match="the model takes sentences, the data are images"):
        scenario({}, model=other, pool=from_tensors(torch.rand(2, 1, 4, 4, generator=stream(0, "test"))))


def test_cuts_take_sentences_in_their_order() -> None:
    pool = load("sentences", length=8, indices="0:7")
    assert cut(pool, 3) == [[0, 1, 2], [3, 4, 5]]


def test_attacks_on_images_are_skipped_by_standard_and_refused_by_name() -> None:
    table = {"data": {"name": "sentences", "length": 8, "indices": "0:1"}, "model": {"width": 8}}
    report = run_audit(parse_plan(table), device="cpu").report
    said = {t.attack: t.skipped or "" for t in report.trials}
    assert {"dlg", "inverting_gradients"} <= set(said)
    assert "works on images; the data are sentences" in said["dlg"]
    assert report.verdict.exit_code == 3
    with pytest.raises(NotApplicable, match="'dlg:paper' does not apply: it works on images; the data are sentences"):
        run_audit(parse_plan({**table, "audit": {"attacks": ["dlg"]}}), device="cpu")
    with pytest.raises(NotApplicable, match="'label_flip:paper' does not apply"):
        run_audit(parse_plan({**table, "server": {"tampering": "label_flip"}}), device="cpu")


def test_robbing_the_fed_reads_sentences_word_for_word() -> None:
    found = scenario(
        {
            "data": {"name": "sentences", "length": 16},
            "client": {"num_examples": 8},
            "model": {"width": 16, "hidden": 32, "layers": 1},
            "server": {"public": {"name": "sentences", "split": "public"}},
        }
    )
    private, robber = found.private(0), RobbingTheFed(Bins(512, ("random",), cutoffs="auto"))
    tampered = robber.tamper(found.model, found.public_batch, 0, stream(0, "server"))
    update = local_update(tampered.model, private, FedSGD())
    knowledge = ServerKnowledge(tampered.model, num_examples=8, labels=private.labels)
    rebuilt = tampered.readout.reconstruct(update, knowledge, stream(0, "attack"))
    held = set(map(tuple, private.inputs.tolist()))
    assert len(held & set(map(tuple, rebuilt.inputs.tolist()))) >= 6
