"""How often the attacks' blind certificates are wrong: records that are claimed without the truth, against the truth.

Every attack that claims records runs on small networks under clean and under hostile conditions: examples that are
alike or the same, constant ones, mixtures, noise, rounding, values that are left out, local steps, several clients, and
a server that is told something wrong. A record is verbatim where it is an exact copy in the sense of reports
(`scoring/exact.py`): 60 dB of a picture, which is where rounding to 8 bits gives back the pixels, every token, every
column; a representation where it is off by less than a thousandth of its length. One file per world; what is recorded
is not run again.

    python -m benchmarks.certificates run --seconds 600
    python -m benchmarks.certificates table
"""

import argparse
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import places, records
from fedspill import catalogue
from fedspill.auditing.certifying.claims import Claims, claims
from fedspill.auditing.certifying.measured import Measured, limit
from fedspill.auditing.readings import copies
from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.inputs import ImageSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedAvg, FedSGD, LocalTraining
from fedspill.core.model import Model
from fedspill.core.rng import rand, stream
from fedspill.core.roles import Attack, Defence, Predicts, Tampered, known_defence
from fedspill.core.settings import with_fields
from fedspill.core.types import Batch, Reconstruction, Update
from fedspill.defences.clipping import Clipping
from fedspill.defences.dp_sgd import DPSGD
from fedspill.defences.gradient_noise import GradientNoise
from fedspill.defences.mixup import MixUp
from fedspill.defences.percentile_privacy import PercentilePrivacy
from fedspill.defences.pruning import Pruning
from fedspill.defences.quantisation import Quantisation
from fedspill.defences.soteria import Soteria
from fedspill.federation.aggregation import collect
from fedspill.federation.client import shared_out
from fedspill.zoo.data import DataPool, load
from fedspill.zoo.models import build

RESULTS = places.RESULTS / "certificates"
PUBLIC = 400
"""Examples that a server has which plans layers by them; the private ones are others."""
Examples = Callable[[Batch, torch.Generator], Batch]
Told = Callable[[int], int | None]


def as_they_are(batch: Batch, rng: torch.Generator) -> Batch:
    return batch


def granted(n: int) -> int | None:
    return n


@dataclass(frozen=True)
class Case:
    """One condition.

    Attributes:
        group: of the table.
        examples: what the client holds instead of the pool's.
        defences: in their order.
        known: the server knows of them.
        rounded: the update went through this number format.
        training: the client's.
        told: whether the server is told the protocol.
        clients: behind the update.
        count: what the server takes the number of examples for.
        labels: the server knows the labels.
    """

    group: str
    examples: Examples = as_they_are
    defences: tuple[Defence, ...] = ()
    known: bool = False
    rounded: torch.dtype | None = None
    training: LocalTraining = FedSGD()
    told: bool = True
    clients: int = 1
    count: Told = granted
    labels: bool = False


def near(distance: float) -> Examples:
    """The second half are the first half's, with other labels, off by uniform noise of this size."""

    def examples(batch: Batch, rng: torch.Generator) -> Batch:
        if batch.inputs.dtype == torch.long:
            return _near_tokens(batch, distance)
        half, inputs = len(batch) // 2, batch.inputs.clone()
        inputs[half : 2 * half] = inputs[:half]
        moved = inputs + distance * (2 * rand(tuple(inputs.shape), rng, inputs) - 1)
        inputs[half : 2 * half] = moved[half : 2 * half]
        return replace(batch, inputs=inputs)

    return examples


def _near_tokens(batch: Batch, distance: float) -> Batch:
    half, inputs, labels = len(batch) // 2, batch.inputs.clone(), batch.labels.clone()
    inputs[half : 2 * half], labels[half : 2 * half] = inputs[:half], labels[:half]
    if distance:
        inputs[half : 2 * half, -1], labels[half : 2 * half, -2] = (
            batch.inputs[half : 2 * half, 0],
            batch.inputs[half : 2 * half, 0],
        )
    return Batch(inputs, labels)


def twice(batch: Batch, rng: torch.Generator) -> Batch:
    """Every example of the first half again, with its label."""
    half = len(batch) // 2
    order = torch.cat([torch.arange(half), torch.arange(half), torch.arange(2 * half, len(batch))])
    return batch[order]


def one_class(batch: Batch, rng: torch.Generator) -> Batch:
    return batch if batch.labels.ndim > 1 else replace(batch, labels=torch.full_like(batch.labels, 3))


def flat(batch: Batch, rng: torch.Generator) -> Batch:
    """Every second picture is of one grey."""
    if batch.inputs.dtype == torch.long:
        return replace(batch, inputs=batch.inputs.clone().index_fill_(0, torch.arange(0, len(batch), 2), 7))
    inputs = batch.inputs.clone()
    shades = (255 * rand((len(batch[::2]),), rng, inputs)).round() / 255
    inputs[::2] = shades.view(-1, *[1] * (inputs.ndim - 1))
    return replace(batch, inputs=inputs)


def black(batch: Batch, rng: torch.Generator) -> Batch:
    inputs = batch.inputs.clone()
    inputs[0] = 0
    return replace(batch, inputs=inputs)


def off_the_lattice(batch: Batch, rng: torch.Generator) -> Batch:
    """Pictures that were never stored in 8 bits."""
    if not batch.inputs.is_floating_point():
        return batch
    return replace(
        batch, inputs=(batch.inputs + (rand(tuple(batch.inputs.shape), rng, batch.inputs) - 0.5) / 100).clamp(0, 1)
    )


def averages(batch: Batch, rng: torch.Generator) -> Batch:
    """Every picture is the rounded mean of two, which is on the lattice of stored ones."""
    if not batch.inputs.is_floating_point():
        return batch
    return replace(batch, inputs=(255 * (batch.inputs + batch.inputs.roll(1, 0)) / 2).round() / 255)


def _noise(share: float, known: bool = False, kind: str = "gaussian") -> Case:
    return Case("noise", defences=(GradientNoise(share, relative=True, distribution=kind),), known=known)  # pyright: ignore[reportArgumentType]


def _steps(epochs: int, size: int | None, lr: float, **more: Any) -> Case:
    return Case("local steps", training=FedAvg(epochs=epochs, minibatch_size=size, lr=lr), **more)


CASES: dict[str, Case] = {
    "as it is": Case("clean"),
    "labels granted": Case("clean", labels=True),
    "not of 8 bits": Case("clean", off_the_lattice),
    "every example twice": Case("alike", twice),
    "alike to 1/255": Case("alike", near(1 / 255)),
    "alike to 0.01": Case("alike", near(0.01)),
    "alike to 0.1": Case("alike", near(0.1)),
    "the same with other labels": Case("alike", near(0.0)),
    "one class": Case("alike", one_class),
    "every second is grey": Case("flat", flat),
    "one is black": Case("flat", black),
    "means of two": Case("mixtures", averages),
    "MixUp": Case("mixtures", defences=(MixUp(k=2),)),
    "MixUp of 4": Case("mixtures", defences=(MixUp(k=4),)),
    "MixUp, known": Case("mixtures", defences=(MixUp(k=2),), known=True),
    **{f"noise {share:g}": _noise(share) for share in (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)},
    **{f"noise {share:g}, known": _noise(share, True) for share in (1e-5, 1e-3, 1e-1)},
    "Laplace noise 0.001": _noise(1e-3, kind="laplace"),
    "examples clipped, noise 1e-4": Case("noise", defences=(DPSGD(clip=1.0, noise_multiplier=1e-4),)),
    **{f"pruned by {share:g}": Case("compression", defences=(Pruning(share),)) for share in (0.1, 0.5, 0.9)},
    "top tenth": Case("compression", defences=(Pruning(0.9, whole=True),)),
    "pruned by 0.5, known": Case("compression", defences=(Pruning(0.5),), known=True),
    **{f"{bits} bits": Case("compression", defences=(Quantisation(bits),)) for bits in (16, 12, 8, 3, 1)},
    "8 bits, at random": Case("compression", defences=(Quantisation(8, stochastic=True),)),
    "8 bits, known": Case("compression", defences=(Quantisation(8),), known=True),
    "float16": Case("compression", rounded=torch.float16),
    "bfloat16": Case("compression", rounded=torch.bfloat16),
    "clipped": Case("compression", defences=(Clipping(0.01),)),
    "largest tenth, cut off": Case("compression", defences=(PercentilePrivacy(percentile=90.0, gamma=0.01),)),
    "Soteria": Case("compression", defences=(Soteria(),)),
    "2 epochs": _steps(2, None, 0.1),
    "2 epochs, lr 0.001": _steps(2, None, 0.001),
    "mini-batches of 1": _steps(1, 1, 0.01),
    "3 epochs, unknown": _steps(3, None, 0.1, told=False),
    "5 epochs of 2, unknown": _steps(5, 2, 0.05, told=False),
    "taken for one step": _steps(3, None, 0.01, told=False),
    "2 clients": Case("several clients", clients=2),
    "4 clients": Case("several clients", clients=4),
    "2 clients, 2 epochs": _steps(2, None, 0.1, clients=2),
    "n unknown": Case("wrong count", count=lambda n: None),
    "n one too small": Case("wrong count", count=lambda n: max(1, n - 1)),
    "n one too large": Case("wrong count", count=lambda n: n + 1),
    "n taken for 1": Case("wrong count", count=lambda n: 1),
    "n twice too large": Case("wrong count", count=lambda n: 2 * n),
}


@dataclass(frozen=True)
class World:
    """An attack, and the network and the examples it runs on.

    Attributes:
        name: of the component that attacks, or alters the model and brings the attack.
        fields: of it that differ from the preset's.
        sizes: of the batch.
        side: pixels of a picture's side.
        repeats: batches of each size under every condition.
        few: only these conditions, as a trial takes long.
    """

    name: str
    preset: str
    network: str = "mlp"
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    fields: Mapping[str, Any] = field(default_factory=dict[str, Any])
    sizes: tuple[int, ...] = (1, 2, 4, 8)
    data: str = "photos"
    side: int = 8
    repeats: int = 1
    few: tuple[str, ...] = ()

    @property
    def file(self) -> str:
        """Name of its record."""
        told = "".join(f"-{k}_{v}" for k, v in self.fields.items())
        return f"{self.name}-{self.preset}{told}-{self.network}-{self.data}.json"


WIDE, DEEP = {"hidden": (256,)}, {"hidden": (128, 64)}
SEARCHED = (
    "as it is",
    "labels granted",
    "every example twice",
    "alike to 0.01",
    "one class",
    "every second is grey",
    "MixUp",
    "noise 1e-05",
    "noise 0.001",
    "noise 0.1",
    "pruned by 0.5",
    "8 bits",
    "1 bits",
    "float16",
    "bfloat16",
    "2 epochs",
    "2 clients",
    "n unknown",
    "n one too small",
    "n one too large",
)
READ = tuple(name for name in SEARCHED if name not in ("2 epochs", "2 clients", "n one too large"))
WORLDS: tuple[World, ...] = (
    World("linear_layer", "paper", options=WIDE),
    World("linear_layer", "strong", options=DEEP),
    World("logistic_regression", "paper", options={"hidden": ()}),
    World("nex", "quick", options=DEEP),
    World("nex", "strong", options={"hidden": (256, 64)}),
    World("spear", "quick", options={"hidden": (200,)}, sizes=(2, 4, 8)),
    World("rgap", "paper", "lenet", sizes=(1,), repeats=4),
    World("trap_weights", "paper", options={"hidden": (512,)}, sizes=(1, 4, 16)),
    World("trap_weights", "strong", options={"hidden": (512,)}, sizes=(1, 4, 16)),
    World("robbing_the_fed", "paper", options=DEEP, sizes=(1, 8, 32)),
    World("robbing_the_fed", "strong", options=DEEP, sizes=(1, 8, 32)),
    World("robbing_the_fed", "soliton", options=DEEP, sizes=(8, 32)),
    World("robbing_the_fed", "sparse", options=DEEP, sizes=(8, 32)),
    World("robbing_the_fed", "mean_laplace", options=DEEP, sizes=(8, 32)),
    World("robbing_linear_layer", "paper", options={"hidden": (256, 64)}, sizes=(8, 32)),
    World("robbing_linear_layer", "strong", options={"hidden": (256, 64)}, sizes=(8, 32), few=SEARCHED),
    World("imprint_bins", "strong", options=DEEP, sizes=(8, 32), few=SEARCHED),
    World("loki", "paper", options=DEEP, sizes=(8, 32), few=SEARCHED),
    World("loki", "strong", options=DEEP, sizes=(8, 32), few=SEARCHED),
    World("one_shot", "paper", options=DEEP, sizes=(64,), few=SEARCHED),
    World("one_shot", "strong", options=DEEP, sizes=(64,), few=SEARCHED),
    World("sub_models", "paper", options=DEEP, sizes=(1, 4, 16), few=SEARCHED),
    World("sub_models", "strong", options=DEEP, sizes=(1, 4, 16), few=SEARCHED),
    World("reversible_blocks", "paper", options=DEEP, sizes=(1, 4, 8), few=SEARCHED),
    World("reversible_blocks", "strong", options=DEEP, sizes=(1, 4, 8), few=SEARCHED),
    World("identity_convolutions", "paper", "lenet", options={"activation": "relu"}, sizes=(1, 4), few=SEARCHED),
    World("identity_convolutions", "strong", "lenet", options={"activation": "relu"}, sizes=(1, 4, 8), few=SEARCHED),
    World("input_to_head", "paper", options=DEEP, sizes=(1, 4, 8), few=SEARCHED),
    World("input_to_head", "strong", options=DEEP, sizes=(1, 4, 8), few=SEARCHED),
    World("linear_first", "paper", options=DEEP, sizes=(1, 4, 16), few=SEARCHED),
    World("linear_first", "strong", options=DEEP, sizes=(1, 4, 16), few=SEARCHED),
    World("maui", "quick", "cnn", fields={"width": 256, "inversion": "decoder"}, sizes=(4, 16), few=SEARCHED),
    World("scale_mia", "quick", "strided_cnn", sizes=(8, 32), few=SEARCHED),
    World("softmax_disaggregation", "paper", options={"hidden": (64, 32)}, sizes=(1, 3), few=SEARCHED),
    World("softmax_disaggregation", "strong", options={"hidden": (64,)}, sizes=(2, 4), few=SEARCHED),
    World("softmax_disaggregation", "quick", "lenet", options={"activation": "relu"}, sizes=(2,), few=READ[:4]),
    World("disaggregated_inversion", "quick", "lenet", sizes=(2,), few=SEARCHED),
    World("rgap", "strong", "lenet", sizes=(1,), few=READ[:8]),
    World("dager", "quick", "gpt", options={"layers": 2}, sizes=(1, 2), data="sentences", few=(*READ[:4], "float16")),
    World("class_fishing", "strong", "lenet", sizes=(4,), few=SEARCHED),
    World("feature_fishing", "strong", "lenet", sizes=(8,), few=SEARCHED),
    World("dlg", "quick", "lenet", sizes=(1, 2), few=READ[:8]),
    World("idlg", "quick", "lenet", sizes=(1,), few=READ[:8]),
    World("inverting_gradients", "quick", "lenet", sizes=(1, 2), few=READ[:10]),
    World("inverting_gradients", "strong", "lenet", sizes=(1,), few=READ[:8]),
)


@dataclass
class Counts:
    """What came out of one condition.

    Attributes:
        updates: that were attacked.
        refused: of them, where the attack did not fit.
        claiming: of them, of which it claimed a record.
        certified: records that were claimed.
        wrong: of them, that are no exact copy of a private example.
        far: of them, pictures below 40 dB.
        wrong_updates: with a wrong record among those claimed.
        least: PSNR in dB of the worst picture that was claimed.
    """

    updates: int = 0
    refused: int = 0
    claiming: int = 0
    certified: int = 0
    wrong: int = 0
    far: int = 0
    wrong_updates: int = 0
    least: float | None = None

    def add(self, exact: Tensor, psnr: Tensor | None) -> None:
        """What was claimed of one update.

        Args:
            exact: (k,) which of the records are exact copies.
            psnr: (k,) of pictures, of the private example that each is closest to.
        """
        wrong = int((~exact).sum())
        self.claiming += bool(len(exact))
        self.certified += len(exact)
        self.wrong += wrong
        self.wrong_updates += wrong > 0
        if psnr is not None and len(psnr):
            self.far += int((psnr < 40).sum())
            self.least = min(float(psnr.min()), 100.0 if self.least is None else self.least)


@dataclass(frozen=True)
class Setting:
    """A network that a server sends, and who reads the answers."""

    model: Model
    sent: Tampered
    attack: Attack
    pool: DataPool
    public: Batch


def setting(world: World) -> Setting:
    pool = load(world.data, length=8) if world.data == "sentences" else load(world.data, size=world.side)
    spec = None if isinstance(pool.spec, ImageSpec) else pool.spec
    model = build(
        world.network,
        input_shape=pool.input_shape,
        num_classes=pool.num_classes,
        spec=spec,
        options=world.options,
        mean=pool.mean,
        std=pool.std,
    )
    public, rng = pool.batch[:PUBLIC], stream(0, "server", world.name)
    if world.name in catalogue.attacks():
        attack = with_fields(catalogue.attacks()[world.name].presets[world.preset], **world.fields)
        sent = Tampered(model)
        if world.name == "imprint_bins":
            planted = catalogue.tamperings()["robbing_the_fed"].presets["paper"].tamper(model, public, 0, rng)
            sent = Tampered(planted.model)
        return Setting(model, sent, attack, pool, public)
    tampering = with_fields(catalogue.tamperings()[world.name].presets[world.preset], **world.fields)
    sent = tampering.tamper(model, public, 0, rng)
    assert sent.readout is not None
    return Setting(model, sent, sent.readout, pool, public)


def batches(world: World, pool: DataPool, case: Case) -> Iterator[tuple[Batch, int]]:
    """The examples of each update, and a seed of its own; never those of the server."""
    at, number = PUBLIC, 0
    for size in world.sizes:
        for _ in range(world.repeats):
            number += 1
            if at + size > len(pool):
                at = PUBLIC
            batch, at = pool.batch[at : at + size], at + size
            if size % case.clients == 0:
                yield case.examples(batch, stream(number, "examples")), number


def answered(set_up: Setting, case: Case, batch: Batch, seed: int) -> tuple[Update | None, ServerKnowledge]:
    sent, training = set_up.sent, replace(case.training, draws=None)
    model = sent.model
    clients = shared_out(batch, case.clients, training, defences=tuple(d.stages() for d in case.defences))
    update = collect(model, clients, stream(seed, "clients"), for_client=sent.for_client)
    if update is not None and case.rounded is not None:
        update = replace(update, values={k: v.to(case.rounded).to(v) for k, v in update.values.items()})
    knowledge = ServerKnowledge(
        model,
        num_clients=case.clients,
        num_examples=case.count(len(batch)),
        labels=batch.labels if case.labels else None,
        local_training=training if case.told else None,
        public_data=set_up.public,
        defence=known_defence(case.defences, model) if case.known else None,
    )
    return update, knowledge


def judged(set_up: Setting, rebuilt: Reconstruction, claimed: Claims, batch: Batch) -> tuple[Tensor, Tensor | None]:
    """Which of the records that are claimed are exact copies, and how close pictures are."""
    model, which, expected = set_up.sent.model, claimed.which, None
    if rebuilt.representations is not None and isinstance(set_up.attack, Predicts):
        with torch.no_grad():
            expected = set_up.attack.predict(model, model.input.encode(batch.inputs))
    exact = copies(rebuilt, batch.inputs, model.input, expected).any(1)[which]
    if expected is not None or not isinstance(model.input, ImageSpec):
        return exact, None
    inputs = rebuilt.inputs[which.to(rebuilt.inputs.device)]
    off = torch.cdist(inputs.double().flatten(1), batch.inputs.double().flatten(1)).square() / batch.inputs[0].numel()
    return exact, -10 * off.amin(1).clamp_min(1e-10).log10()


def counted(world: World, set_up: Setting, name: str) -> dict[str, Counts]:
    """What is claimed under one condition, by what claims stand on."""
    case, found = CASES[name], dict[str, Counts]()
    for batch, seed in batches(world, set_up.pool, case):
        try:
            update, knowledge = answered(set_up, case, batch, seed)
            if update is None or update.norm() == 0:
                continue
            rebuilt = set_up.attack.reconstruct(update, knowledge, stream(seed, "attack", name))
        except (NotApplicable, BadInput):
            counts = found.setdefault("none", Counts())
            counts.updates, counts.refused = counts.updates + 1, counts.refused + 1
            continue
        claimed = claims(rebuilt, knowledge)
        counts = found.setdefault(claimed.basis, Counts())
        counts.updates += 1
        counts.add(*judged(set_up, rebuilt, claimed, batch))
    return found


def run(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    began = time.monotonic()
    for world in WORLDS:
        path = RESULTS / world.file
        if (args.only and world.name not in args.only) or (path.exists() and not args.redo):
            continue
        if args.seconds and time.monotonic() - began > args.seconds:
            print("the time is over")
            return
        start, set_up = time.process_time(), setting(world)
        cases = {k: {b: asdict(c) for b, c in counted(world, set_up, k).items()} for k in world.few or CASES}
        record = {"settings": {**asdict(world), "public": PUBLIC}, "seconds": time.process_time() - start}
        records.write(path, {**record, "cases": cases, "conditions": records.conditions(args)})
        sums = [c for bases in cases.values() for c in bases.values()]
        print(
            world.file,
            *(f"{k} {sum(c[k] for c in sums)}" for k in ("updates", "refused", "certified", "wrong", "far")),
            f"{record['seconds']:.0f} s",
            flush=True,
        )


@dataclass(frozen=True)
class Claimed:
    """What one attack claimed on one basis under one condition, in one world."""

    attack: str
    basis: str
    case: str
    counts: Counts


def recorded() -> list[Claimed]:
    """All that was measured, world by world."""
    found = list[Claimed]()
    for path in sorted(RESULTS.glob("*.json")):
        record = records.read(path)
        for case, bases in record["cases"].items():
            found += [Claimed(record["settings"]["name"], basis, case, Counts(**c)) for basis, c in bases.items()]
    return [one for one in found if one.basis != "none"]


def summed(claimed: Sequence[Claimed]) -> Measured:
    """Together; `far` is None where nothing that was claimed is a picture."""
    each = [one.counts for one in claimed]
    pictures = any(c.least is not None for c in each) or not any(c.certified for c in each)
    return Measured(
        updates=sum(c.claiming for c in each),
        claims=sum(c.certified for c in each),
        wrong=sum(c.wrong for c in each),
        far=sum(c.far for c in each) if pictures else None,
        wrong_updates=sum(c.wrong_updates for c in each),
    )


def by_attack() -> dict[tuple[str, str], Measured]:
    """The table of `auditing/certifying/measured.py`; attacks that never claimed anything are not in it."""
    every = recorded()
    kinds = sorted({(one.attack, one.basis) for one in every}, key=lambda kind: (kind[1], kind[0]))
    found = {kind: summed([one for one in every if (one.attack, one.basis) == kind]) for kind in kinds}
    return {kind: measured for kind, measured in found.items() if measured.claims}


def lines() -> Iterator[str]:
    """The tables of docs/bounds.md, and the one in the source."""
    columns = "attack | basis | updates | records | wrong | limit | wrong updates, limit | below 40 dB | limit"
    yield f"| {columns} | wrong under |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for (attack, basis), m in by_attack().items():
        under = _wrong_under(attack, basis)
        far = "- | -" if m.far is None else f"{m.far} | {_share(m.far, m.claims)}"
        of_updates = f"{m.wrong_updates}, {_share(m.wrong_updates, m.updates)}"
        counted = f"{m.updates:,} | {m.claims:,} | {m.wrong} | {_share(m.wrong, m.claims)} | {of_updates} | {far}"
        yield f"| {attack} | {basis} | {counted} | {under} |"
    yield ""
    yield "| condition | records | wrong | below 40 dB |"
    yield "|---|---|---|---|"
    for group in dict.fromkeys(case.group for case in CASES.values()):
        m = summed([o for o in recorded() if CASES[o.case].group == group and o.basis == "certificate"])
        yield f"| {group} | {m.claims:,} | {m.wrong} | {m.far} |"
    yield ""
    for (attack, basis), m in by_attack().items():
        yield f'    ("{attack}", "{basis}"): Measured({m.updates}, {m.claims}, {m.wrong}, {m.far}, {m.wrong_updates}),'


def _share(wrong: int, claims: int) -> str:
    most = limit(wrong, claims)
    return "-" if most is None else f"{most:.2g}"


def _wrong_under(attack: str, basis: str) -> str:
    """The conditions, those with the most wrong records first."""
    counts = dict[str, int]()
    for one in recorded():
        if (one.attack, one.basis) == (attack, basis) and one.counts.wrong:
            counts[one.case] = counts.get(one.case, 0) + one.counts.wrong
    return "; ".join(f"{case} {n}" for case, n in sorted(counts.items(), key=lambda pair: -pair[1])[:5]) or "-"


def own(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", nargs="+", help="attacks")
    parser.add_argument("--seconds", type=float, default=0.0, help="after which no world is begun; 0 is none")
    parser.add_argument("--redo", action="store_true")


if __name__ == "__main__":
    records.run_or_table("certificates", __doc__, own, run, lines)
