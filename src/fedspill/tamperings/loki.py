"""LOKI: every client receives kernels of its own, so that a sum over clients still shows each of them apart.

Zhao, Sharma, Elkordy, Ezzeldin, Avestimehr, Bagchi: "LOKI: Large-scale Data Reconstruction Attack against Federated
Learning through Model Manipulation", IEEE S&P 2024, arXiv:2303.12233. The columns that are only read, and peeling, are
not in the paper.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.inputs import ImageSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.model import Model
from fedspill.core.roles import UNWATCHED, Card, Tampered, Tampering, Watch
from fedspill.core.types import Batch, Mark, Reconstruction, ServerRole, Update
from fedspill.inversion.codebooks.codebook import Codebook
from fedspill.inversion.gradients.layer import Layer, sent
from fedspill.inversion.imprint.bin_readout import DOUBTFUL, OPEN, SURE, Readings, candidates, joined, read_bins
from fedspill.inversion.imprint.certificate import Outlet, share_test
from fedspill.inversion.imprint.contents import Contents, contents
from fedspill.inversion.imprint.making import Bins, make_imprint
from fedspill.inversion.imprint.peeling import peel
from fedspill.inversion.imprint.readout import Decode
from fedspill.inversion.imprint.rescaling import mended_all
from fedspill.inversion.imprint.rows import Group, Imprint
from fedspill.inversion.imprint.views import InputView
from fedspill.inversion.network.planting import PLANTED, Before, Place, enclosed, equal_columns
from fedspill.inversion.network.splitting import Apart, Blocks, SplitFront
from fedspill.inversion.theory.occupancy import summary

Read = Literal["brightest", "stored", "ratio"]
WEIGHT = f"{PLANTED}.first.weight"
OWN = Layer("weight", "bias")
"""One client's part of it."""
SAME = 1e-2
"""Distance between two candidates, relative to their length, up to which they are one example."""
SLACK = 0.02
"""Share of a factor by which it may lie beyond what its bin allows."""
STRETCHED, AS_STORED = 0.75, 1e-3
"""Confidence of one example's picture that is stretched beyond how it is stored, and the factor's error up to which it
is not."""


@dataclass(frozen=True)
class Loki:
    """Plants bins behind kernels that differ from client to client; a plan names the fields of `bins` as its own.

    Attributes:
        bins: what is measured, and into which bins it is sorted; the paper takes 4 rows for each of a client's
            images, whatever the number of clients.
        read: how a client's columns are read. "brightest": the bias is a sum over clients, so each row is stretched
            until its brightest pixel is 1, as published. "stored": it is stretched until it holds whole levels of
            8 bits. "ratio": columns apart from those that measure show pixels and a one, whose ratio is exact.
        decode: "bins" as in the paper, or "peel", for which several functions and read = "ratio" are needed.
        scaling: the centre tap of the kernels, by which the rows behind are divided (the convolutional scaling
            factor). With "brightest" and "stored" a large one moves a row that was hit out of reach of later steps;
            with "ratio" rows should stay where they are, so that a small one is better.
        gain: scales the rows; the layer behind divides by it again. A small one lets local steps change that layer
            less, by which an example's share in one row differs from that in another.
        throughput: by what the mean over the rows is multiplied before it goes on, see `robbing_the_fed`.
        clients: numbers of the clients; () are those that the server asks.

    Raises:
        BadInput: a number is out of range, clients repeat, or `decode` and `read` do not go together.
    """

    bins: Bins = Bins(256, cutoffs="auto")
    read: Read = "brightest"
    decode: Decode = "bins"
    scaling: float = 5000.0
    gain: float = 1.0
    throughput: float = 1.0
    clients: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("scaling", "gain", "throughput"):
            if not (isfinite(value := vars(self)[name]) and value > 0):
                raise BadInput(f"{name}={value} must be finite and above 0")
        if len(set(self.clients)) != len(self.clients) or any(k < 0 for k in self.clients):
            raise BadInput(f"clients={list(self.clients)}: numbers from 0, each once, are needed")
        if self.decode == "peel" and self.read != "ratio":
            raise BadInput(f"decode='peel' with read={self.read!r}: peeling needs read='ratio', which tells shares")

    def for_clients(self, clients: Sequence[int]) -> "Loki":
        """The tampering for these clients.

        Raises:
            BadInput: `clients` of the plan leaves one of them out.
        """
        if not self.clients:
            return replace(self, clients=tuple(clients))
        if missing := sorted(set(clients) - set(self.clients)):
            raise BadInput(f"clients={list(self.clients)} have columns, but clients {missing} are asked, too")
        return self

    def tamper(
        self, model: Model, public_data: Batch | None, round: int, rng: torch.Generator, watch: Watch = UNWATCHED
    ) -> Tampered:
        """The front before the model, what differs from client to client, and the readout.

        Raises:
            NotApplicable: the model takes no pictures, or cutoffs need public data that are not there.
        """
        spec, clients = model.input, self.clients or (0,)
        if not isinstance(spec, ImageSpec):
            raise NotApplicable(f"its kernels hand pictures on; the model takes {type(spec).__name__}")
        layout = (Apart if self.read == "ratio" else Blocks)(spec, len(clients), self.scaling)
        place = Place("", spec.shape)
        imprint = make_imprint(self.bins, model, place, public_data, rng, sparse=True, gain=self.gain)
        scale = self.throughput / self.gain / imprint.total
        changed = _planted(model, layout, imprint, scale, rng)
        direction = model.like.new_full((place.features,), scale)
        outlet = Outlet(place.module, place.module, direction)
        readout = LokiReadout(layout, imprint, outlet, clients, self.read, self.decode)
        if len(clients) == 1:
            return Tampered(changed, readout)

        def for_client(k: int) -> Model:
            return _with_kernels(changed, layout.split(clients.index(k), model.like))

        return Tampered(changed, readout, for_client=for_client)


def _planted(model: Model, layout: Apart | Blocks, imprint: Imprint, size: float, rng: torch.Generator) -> Model:
    """The model of the first client; `size` is what a row's activation is multiplied by."""
    front = SplitFront(layout.spec.shape, layout.kernels, imprint.total, imprint.gain, layout.past)
    weight, bias = layout.first(*imprint.weight_and_bias(rng, model.like))
    features = front.second.out_features
    values = {f"split.{k}": v for k, v in layout.split(0, model.like).items()} | {
        "first.weight": weight,
        "first.bias": bias,
        "second.weight": equal_columns(imprint.total, features, size, model.like),
        "second.bias": model.like.new_full((features,), -size * imprint.typical()),
    }
    return enclosed(model, "", lambda base: Before(front, base), {f"{PLANTED}.{k}": v for k, v in values.items()})


def _with_kernels(model: Model, kernels: Mapping[str, Tensor]) -> Model:
    return replace(model, params={**model.params, **{f"{PLANTED}.split.{k}": v for k, v in kernels.items()}})


@dataclass(frozen=True)
class LokiReadout:
    """Reads the columns of every client, each as an imprint module of its own.

    Converged means that stored data were recognised in at least one bin.

    Attributes:
        layout: which columns belong to whom.
        imprint: which row belongs to which bin.
        outlet: where the rows go on to.
        clients: their numbers, in the order of the layout.
        read: see `Loki`.
        decode: see `Loki`.
    """

    layout: Apart | Blocks
    imprint: Imprint
    outlet: Outlet
    clients: tuple[int, ...]
    read: Read
    decode: Decode
    look: InputView = field(init=False)

    def __post_init__(self) -> None:
        spec = self.layout.spec
        object.__setattr__(self, "look", InputView(spec if self.read == "ratio" else ImageSpec(spec.shape)))

    def reconstruct(
        self, update: Update, knowledge: ServerKnowledge, rng: torch.Generator, watch: Watch = UNWATCHED
    ) -> Reconstruction:
        """What the bins of all clients hold, and whose it is.

        Raises:
            NotApplicable: the planted layer was not trained, or the clients' optimiser leaves no ratios.
        """
        parts = [self._client(update, knowledge, rng, place) for place in range(len(self.clients))]
        readings, like = joined(parts), knowledge.model.like
        inputs = self.look.inputs(readings.features)
        if isinstance(self.layout, Blocks):
            low, high = self.layout.spec.bounds
            inputs = inputs * (high - low) + low
        return Reconstruction(
            inputs=inputs.to(like),
            confidence=readings.confidence.to(like),
            converged="alone" in readings.marks,
            notes=self._notes(parts, knowledge),
            origins=readings.origins,
            marks=readings.marks,
        )

    def _client(self, update: Update, knowledge: ServerKnowledge, rng: torch.Generator, place: int) -> Readings:
        own = replace(OWN, gain=self.layout.scaling)
        held = contents(*self._own(update, knowledge, place), own, self.imprint)
        if isinstance(self.layout, Blocks):
            found = _stretched(held, self.imprint, self.layout, self.look.codebook, stored=self.read == "stored")
        else:
            held = mended_all(held, self.imprint.groups, self.look.codebook)
            accounts = share_test(update, knowledge, self.outlet, rng, lambda: candidates(held, self.imprint))
            decode = peel if self.decode == "peel" else read_bins
            found = decode(held, self.imprint, self.look.codebook, accounts)
        named = tuple(f"client {self.clients[place]}, {origin}" for origin in found.origins)
        return _once(replace(found, origins=named))

    def _own(self, update: Update, knowledge: ServerKnowledge, place: int) -> tuple[Update, ServerKnowledge]:
        """What this client sent of a linear layer of its own."""
        values = self._columns(sent(update, WEIGHT, "the planted layer's weight"), place)
        # The network's own stay: it is run, too, where a defence is known.
        params = {**knowledge.model.params, **self._columns(knowledge.model.params[WEIGHT], place)}
        return Update(update.kind, values), replace(knowledge, model=replace(knowledge.model, params=params))

    def _columns(self, weight: Tensor, place: int) -> dict[str, Tensor]:
        own, scaling = self.layout.columns(place), self.layout.scaling
        # The layer's bias is of all clients. Many columns of ones: their mean is rounded less than any of them. Without
        # ones, how bright a row is tells whether this client sent anything of it.
        told = weight[:, own.pixels if own.ones is None else own.ones]
        return {
            OWN.weight: weight[:, own.pixels],
            OWN.bias: (told.double().mean(1) / scaling).to(weight),
        }

    def _notes(self, parts: Sequence[Readings], knowledge: ServerKnowledge) -> tuple[str, ...]:
        found, rows = sum(map(len, parts)), sum(len(g.rows) for g in self.imprint.groups)
        if not found:
            return ("No bin holds anything: no example was measured inside the cutoffs.",)
        sure = sum(m == "alone" for part in parts for m in part.marks)
        counts = f"{found} candidates were read in {rows} bins of each of {len(parts)} clients"
        note = f"{counts}; {sure} are recognised as single examples."
        if knowledge.num_examples is None or knowledge.client_sizes is not None:
            return (note,)
        each = knowledge.num_examples // knowledge.num_clients
        return (note, f"Of one client: {summary(each, rows)}")


def _once(readings: Readings) -> Readings:
    """Candidates that come a second time are marked, and trusted less than any other.

    Local training moves a row, so that an example's rest in it, or in the next one, looks like the example.
    """
    far, alike = torch.cdist(readings.features, readings.features), readings.features.norm(dim=1) * SAME
    mine, theirs = readings.confidence[:, None], readings.confidence[None]
    first = torch.ones_like(far, dtype=torch.bool).tril(-1)
    copies = ((far <= alike) & ((theirs > mine) | ((theirs == mine) & first))).any(1)
    marks = tuple("duplicate" if c else m for c, m in zip(copies.tolist(), readings.marks, strict=True))
    return replace(readings, marks=marks, confidence=torch.where(copies, 0.0, readings.confidence))


def _stretched(
    held: Sequence[Contents], imprint: Imprint, layout: Blocks, codebook: Codebook, *, stored: bool
) -> Readings:
    """Every row that holds something, as pixels between 0 and 1, by no bias.

    Args:
        held: contents by group; their bias is not looked at.
        imprint: the groups.
        layout: of the columns.
        codebook: what stored pixels between 0 and 1 look like.
        stored: take the factor by which a row holds stored data, where there is one, else the brightest pixel's.
    """
    names = imprint.names()
    return joined([_of_group(h, imprint.groups[j], names[j], layout, codebook, stored) for j, h in enumerate(held)])


def _of_group(
    held: Contents, group: Group, names: list[str], layout: Blocks, codebook: Codebook, stored: bool
) -> Readings:
    size = held.weight.norm(dim=1)
    filled = (size > held.rough).nonzero()[:, 0]
    rows = held.weight[filled].abs()
    directions = rows / rows.amax(1, keepdim=True)
    ends = [_allowed(group, place, d, layout) for place, d in zip(filled.tolist(), directions, strict=True)]
    factors = [None if e is None else codebook.scale(d, *e) for d, e in zip(directions, ends, strict=True)]
    best = directions.new_tensor([1.0 if f is None or not stored else f for f in factors])
    alone = directions.new_tensor([f is not None for f in factors], dtype=torch.bool)
    other: Mark = "mixture" if bool(alone.any()) else "unsure"
    trust = size[filled].argsort().argsort().to(directions) / max(1, len(filled))
    doubt = DOUBTFUL if other == "mixture" else OPEN
    as_stored = [f is not None and (stored or abs(f - 1) < AS_STORED) for f in factors]
    shown = directions.new_tensor(as_stored, dtype=torch.bool)
    return Readings(
        directions * best[:, None],
        tuple(names[place] for place in filled.tolist()),
        tuple("alone" if f is not None else other for f in factors),
        torch.where(shown, SURE, torch.where(alone, STRETCHED, doubt * (0.5 + 0.5 * trust))),
        size[filled],
    )


def _allowed(group: Group, place: int, direction: Float[Tensor, " f"], layout: Blocks) -> tuple[float, float] | None:
    """Factors between which a picture of this direction lies in its bin and has no pixel above 1; None if none does."""
    vector, offset = layout.as_pixels(group.vector.to(direction))
    slope = float(vector @ direction)
    if slope == 0:
        return None
    low, high = sorted((float(e) - offset) / slope for e in group.edges[place : place + 2])
    low, high = max(low * (1 - SLACK), SLACK), min(high * (1 + SLACK), 1 + SLACK)
    return (low, high) if low < high else None


PEEL = ("random", "random", "random", "random")

CARD: Card[Tampering] = Card(
    title="LOKI",
    paper="Zhao et al., IEEE S&P 2024, arXiv:2303.12233",
    summary="Sends every client other kernels before one imprint, so that secure aggregation hides nobody.",
    presets={
        "paper": Loki(),
        "quick": Loki(read="stored"),
        "strong": Loki(Bins(256, PEEL, cutoffs="auto"), "ratio", "peel", scaling=1 / 16, gain=1 / 16),
    },
    reads=True,
    role=ServerRole.MALICIOUS_ARCHITECTURE,
)
