"""SpAB-training of a head on the representations of public data (Maui, arXiv 2509.11451, Algorithm 2)."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from pydantic import BaseModel
from torch import Tensor

from fedspill import __version__
from fedspill.core.errors import BadInput
from fedspill.core.probing.head import head_module
from fedspill.core.rng import stream
from fedspill.core.settings import plain_fields
from fedspill.inversion.network.extractor import Extractor
from fedspill.inversion.representations.heads.making import make_head
from fedspill.inversion.representations.heads.settings import SpAB, told_fields
from fedspill.inversion.representations.heads.weights import HeadWeights
from fedspill.inversion.theory.ownership import leakage_rates
from fedspill.plan.build import network
from fedspill.training.plan import SpabPlan
from fedspill.training.spab_search import best_settings
from fedspill.training.state import FileWatch, Listener, Silent, StateFile, finished
from fedspill.zoo.data import load, shared_examples


class Rate(BaseModel):
    """The IR leakage rate of batches of one size, with the truth, of test examples."""

    size: int
    mean: float
    standard_error: float
    batches: int


class SpabReport(BaseModel):
    """What a training reached, on test examples.

    Attributes:
        settings: the fields of `SpAB` that were used.
    """

    kind: str
    width: int
    length: int
    rates: list[Rate]
    accuracy: float
    test_examples: int
    settings: dict[str, object]
    command: str
    versions: str
    device: str


@dataclass(frozen=True)
class Features:
    """Representations and labels of public and of test data."""

    public: Tensor
    labels: Tensor
    test: Tensor
    test_labels: Tensor
    classes: int


def train_spab(
    plan: SpabPlan,
    out: Path,
    *,
    device: torch.device,
    listener: Listener | None = None,
    command: str = "",
    trials: int = 0,
) -> SpabReport:
    """Trains a head, writes it to `out` and the figures beside it (FILE.json); a killed run goes on.

    Args:
        plan: see `SpabPlan`.
        out: a safetensors file, for `read_head`.
        device: where it is trained.
        listener: hears of it.
        command: as typed, for the record.
        trials: of Optuna's TPE sampler, which searches settings before the head is trained with the best; 0 takes
            those of the plan.

    Raises:
        BadInput: data or model cannot be had, or do not fit together.
    """
    listener = listener or Silent()
    file = StateFile.beside(out, plan)
    listener.message("computing representations of public and test data")
    features = _features(plan, device)
    settings = plan.spab
    if trials:
        settings = best_settings(plan, features.public, features.labels, features.classes, trials, out, listener)
    file = replace(file, key=f"{file.key} {told_fields(settings)}")
    rng = stream(plan.head.seed, "head", plan.head.kind)
    width, watch = plan.head.width, FileWatch(listener, file, seconds=0.0)
    head = make_head(plan.head.kind, features.public, features.labels, features.classes, width, settings, rng, watch)
    report = _report(plan, settings, head, features, command, device)
    finished(out, head_tensors(head), _metadata(plan, report), report, file)
    return report


def head_tensors(head: HeadWeights) -> dict[str, Tensor]:
    """The head's weights by their names in the state of `HeadWeights.module`."""
    return {k: v.detach() for k, v in head.module().state_dict().items()}


def _features(plan: SpabPlan, device: torch.device) -> Features:
    public = load(**plan.data.model_dump())
    test = load(**plan.test.model_dump())
    if shared := shared_examples(public, test):
        raise BadInput(f"{len(shared)} test examples are public examples too; they must be disjoint")
    model = network(plan.model, public, plan.data.root, device, "cnn", public)
    extractor = Extractor(model, head_module(model))
    return Features(
        extractor.of(public.batch.inputs),
        public.batch.labels.to(device),
        extractor.of(test.batch.inputs),
        test.batch.labels.to(device),
        plan.model.num_classes or public.num_classes,
    )


def rates_of(head: HeadWeights, features: Tensor, sizes: tuple[int, ...], batches: int) -> list[Rate]:
    """The IR leakage rate on disjoint batches, at most `batches` of each size; sizes without two batches are left out.

    Args:
        head: whose first layer is judged.
        features: representations in any order; consecutive ones make a batch.
        sizes: of batches.
        batches: the most of each.
    """
    out = list[Rate]()
    for size in sizes:
        count = min(batches, len(features) // size)
        if count > 1:
            rates = torch.cat([leakage_rates(head.outputs(f), size) for f in features[: count * size].split(size)])
            error = float(rates.std()) / count**0.5
            out.append(Rate(size=size, mean=float(rates.mean()), standard_error=error, batches=count))
    return out


def _report(
    plan: SpabPlan, settings: SpAB, head: HeadWeights, features: Features, command: str, device: torch.device
) -> SpabReport:
    return SpabReport(
        kind=plan.head.kind,
        width=plan.head.width,
        length=features.public.shape[1],
        rates=rates_of(head, features.test, settings.expected.sizes, plan.head.batches),
        accuracy=head.accuracy(features.test, features.test_labels),
        test_examples=len(features.test),
        settings=plain_fields(settings),
        command=command,
        versions=f"fedspill {__version__}, torch {torch.__version__}",
        device=device.type,
    )


def _metadata(plan: SpabPlan, report: SpabReport) -> dict[str, str]:
    return {
        "head": report.kind,
        "network": plan.model.name or "cnn",
        "extractor": plan.model.weights,
        "settings": json.dumps(report.settings),
        "accuracy": f"{report.accuracy:.4f}",
        "leakage": "; ".join(f"{r.mean:.4f} at {r.size}" for r in report.rates),
        "command": report.command,
        "versions": report.versions,
    }
