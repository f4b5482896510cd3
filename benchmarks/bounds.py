"""Bounds beside what is in fact read, and broken mechanisms beside honest ones: the figures of docs/bounds.md.

python -m benchmarks.bounds
"""

import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from fedspill import catalogue
from fedspill.core.inputs import ImageSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedSGD, local_update
from fedspill.core.model import Model
from fedspill.core.rng import seeded_globals, stream
from fedspill.core.types import Batch, Update, UpdateKind
from fedspill.privacy.analytic_attackers import divided_by_bias
from fedspill.privacy.empirical import played
from fedspill.privacy.gaussian import analytic_sigma
from fedspill.privacy.mechanisms import clipped, noised
from fedspill.privacy.reconstruction import GaussianPrior, psnr_ceiling, robustness
from fedspill.privacy.release import Release
from fedspill.zoo.data import load

CLIP = 1.0
IMAGES = 16


def by_epsilon() -> None:
    """What epsilon of one update (replacement, delta 1e-5) leaves to any attacker."""
    print("| epsilon | noise / C | mu | prior 0.1 | 1e-3 | 1e-6 | PSNR, 32 x 32 x 3 |")
    for epsilon in (1.0, 8.0, 32.0, 100.0, 1000.0):
        release = Release(CLIP, 2 * CLIP * analytic_sigma(epsilon, 1e-5))
        told = [robustness(release, prior) for prior in (0.1, 1e-3, 1e-6)]
        mu = told[0].mu or 0.0
        top = psnr_ceiling(GaussianPrior(3072, 0.25), mu)
        shares = " | ".join(f"{t.success:.2g}" for t in told)
        print(f"| {epsilon:g} | {release.noise:.3g} | {mu:.3g} | {shares} | {top:.1f} dB |")


def network() -> Model:
    with seeded_globals(stream(0, "network")):
        net = nn.Sequential(nn.Flatten(), nn.Linear(192, 64), nn.ReLU(), nn.Linear(64, 10))
    return Model.of(net, ImageSpec((3, 8, 8)))


def readout() -> None:
    """A linear layer under clipping and noise: closed forms beside the attack `linear_layer`."""
    model, training = network(), FedSGD()
    pool = load("photos", indices=f"0:{IMAGES}", size=8).batch
    attack = catalogue.attacks()["linear_layer"].presets["paper"]
    print(
        "| noise / C | best row, closed form | all rows, closed form | all rows, read | linear_layer | its mean error |"
    )
    for noise in (1e-5, 1e-4, 1e-3, 1e-2):
        found = list[tuple[float, float, float, float]]()
        for k in range(IMAGES):
            batch = Batch(pool.inputs[k : k + 1], torch.tensor([k % 10]))
            sent = clipped(local_update(model, batch, training), CLIP)
            seen = noised(sent, noise, "gaussian", stream(k, "noise"))
            length, biases = float(batch.inputs.norm()), sent.values["1.bias"].double()
            best = divided_by_bias(192, length, [float(biases.abs().max())], noise=noise).psnr
            every = divided_by_bias(192, length, biases[biases != 0].tolist(), noise=noise).psnr
            knowledge = ServerKnowledge(model, num_examples=1, labels=batch.labels, local_training=training)
            rebuilt = attack.reconstruct(seen, knowledge, stream(k, "attack")).inputs[:1]
            found.append((best, every, psnr(averaged(seen), batch.inputs), psnr(rebuilt, batch.inputs)))
        print(f"| {noise:g} | " + " | ".join(f"{of_means(list(c)):.1f} dB" for c in zip(*found, strict=True)) + " |")


def averaged(update: Update) -> torch.Tensor:
    """The mean of all rows' ratios, weighed by the square of the bias gradient, which is noisy itself."""
    weight, bias = update.values["1.weight"].double(), update.values["1.bias"].double()
    return (weight * bias[:, None]).sum(0) / bias.square().sum()


def psnr(rebuilt: torch.Tensor, image: torch.Tensor) -> float:
    return float(-10 * (rebuilt.flatten().double() - image.flatten().double()).square().mean().log10())


def of_means(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


SIGMA = 2 * CLIP * analytic_sigma(2.0, 1e-5)
Mechanism = Callable[[Update, torch.Generator, int], Update]


def honest(update: Update, rng: torch.Generator, trial: int) -> Update:
    return replace(noised(clipped(update, CLIP), SIGMA, "gaussian", rng), buffers=None)


MECHANISMS: dict[str, Mechanism] = {
    "honest": honest,
    "noise left out": lambda u, rng, t: replace(clipped(u, CLIP), buffers=None),
    "clipping after the noise": lambda u, rng, t: replace(
        clipped(noised(u, SIGMA, "gaussian", rng), CLIP), buffers=None
    ),
    "integer buffers sent bare": lambda u, rng, t: noised(clipped(u, CLIP), SIGMA, "gaussian", rng),
    "one seed for every round": lambda u, rng, t: honest(u, stream(t, "one"), t),
    "a quarter of the noise": lambda u, rng, t: replace(
        noised(clipped(u, CLIP), SIGMA / 4, "gaussian", rng), buffers=None
    ),
}


def neighbour(present: bool) -> Update:
    values = torch.tensor([50.0 if present else -50.0, -0.2, 0.1, 0.0, 0.4], dtype=torch.float64)
    return Update(UpdateKind.GRADIENT, {"w": values}, {"num_batches": torch.tensor([7 + present])})


def games(trials: int = 1000) -> None:
    """Mechanisms that claim epsilon 2 at delta 1e-5 for one update, played against; two rounds, the canary in one."""
    print("| mechanism | epsilon, counted | by a Gaussian curve | caught | told apart |")
    for name, mechanism in MECHANISMS.items():

        def play(present: bool, trial: int, mechanism: Mechanism = mechanism) -> list[Update]:
            rng = stream(trial, "noise", str(present))
            rounds = [neighbour(present), neighbour(False)]
            return [mechanism(u, rng, trial + 10 * trials * present) for u in rounds]

        told = played(play, trials)
        caught = "yes" if told.contradicts(2.0) else "no"
        print(f"| {name} | {told.epsilon:.2f} | {told.gaussian_epsilon:.2f} | {caught} | {told.score} |")


def main() -> None:
    for part in (by_epsilon, readout, games):
        began = time.process_time()
        part()
        print(f"({part.__name__}: {time.process_time() - began:.0f} processor seconds)\n")


if __name__ == "__main__":
    main()
