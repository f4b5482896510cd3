"""What the benchmarks of Maui share: an extractor, public and private images, an update of the head alone, scores."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedSGD, local_update
from fedspill.core.model import Model
from fedspill.core.probing.head import head_module
from fedspill.core.rng import stream
from fedspill.core.roles import Attack, Metric
from fedspill.core.types import Batch, Reconstruction, Update
from fedspill.scoring.metrics import by_names
from fedspill.scoring.metrics.lpips import default_weights
from fedspill.scoring.score import score_all
from fedspill.zoo.data import DataPool, load
from fedspill.zoo.models import build

HEAD_ONLY = FedSGD(("head.*",))
METRICS = ("psnr", "ssim", "lpips")


@dataclass(frozen=True)
class World:
    """A network of the zoo with trained weights, CIFAR-10's training images as public data, its test images as private.

    Images stay on the CPU; what attacks do runs where the model is.
    """

    model: Model
    public: Batch
    test: DataPool


def world(weights: str, public: str = "0:50000", network: str = "cnn", device: str = "cpu") -> World:
    """Extractor and images; `weights` is "robust", "trained" (natural), "untrained" or a file."""
    train, test = load("cifar10", split="train", indices=public), load("cifar10", split="test")
    model = build(
        network,
        input_shape=(3, 32, 32),
        num_classes=10,
        weights=weights,
        mean=test.mean,
        std=test.std,
        device=torch.device(device),
    )
    return World(model, train.batch, test)


def batches(pool: DataPool, size: int, count: int, seed: int = 0) -> list[Batch]:
    """Disjoint random batches while the pool lasts."""
    order = torch.randperm(len(pool), generator=stream(seed, "batches", size))
    return [pool.batch[order[k * size : (k + 1) * size]] for k in range(min(count, len(pool) // size))]


def answered(model: Model, private: Batch) -> tuple[Update, ServerKnowledge]:
    """What one client sends, of its head alone, and what the server holds: no labels."""
    training = FedSGD((f"{head_module(model)}.*",))
    update = local_update(model, private, training)
    return update, ServerKnowledge(model, num_examples=len(private), local_training=training)


def attacked(attack: Attack, model: Model, private: Batch, seed: int = 0) -> Reconstruction:
    """The attack on the head's gradient."""
    return attack.reconstruct(*answered(model, private), stream(seed, "attack"))


def metrics() -> tuple[Metric, ...]:
    """PSNR, SSIM and, where AlexNet's weights lie under FEDSPILL_DATA, LPIPS."""
    weights = default_weights()
    return by_names(METRICS if weights is not None else METRICS[:2], lpips_weights=weights)


def scores(rebuilt: Tensor, private: Tensor) -> dict[str, Tensor]:
    """Metric to values (n,), NaN for private images that got no reconstruction."""
    rebuilt = rebuilt.cpu()
    if len(rebuilt) == 0:
        return {m.name: torch.full((len(private),), torch.nan, dtype=torch.float64) for m in metrics()}
    return {m.name: m.values for m in score_all(rebuilt, private, metrics()).metrics}


def mean_and_deviation(values: Tensor) -> str:
    """Over the values that there are."""
    kept = values[~values.isnan()]
    if not len(kept):
        return "-"
    spread = f" ± {float(kept.std()):.2f}" if len(kept) > 1 else ""
    return f"{float(kept.mean()):.2f}{spread}"
