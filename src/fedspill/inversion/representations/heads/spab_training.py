"""The training of a two-layer head on frozen representations: objective, schedule, choice of the epoch, state."""

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from fedspill.core.rng import randn
from fedspill.core.roles import State, Watch
from fedspill.inversion.representations.heads.settings import AliveOver, SpAB
from fedspill.inversion.representations.heads.weights import HeadWeights, default_layers, quantile_bias
from fedspill.inversion.theory.ownership import expected_leakage

HELD_OUT = 0.1


MOST_HELD_OUT = 2048


LARGEST_WHITENED = 4096
"""Representations that are longer are scaled value by value: an eigendecomposition would not fit."""


WARM_UP = 20
"""Steps in which the learning rate rises."""


@dataclass(frozen=True)
class Coordinates:
    """Centred and whitened representations t = (x - mean) @ map, in which rows are trained."""

    mean: Float[Tensor, " d"]
    map: Float[Tensor, "d d"] | Float[Tensor, " d"]

    @classmethod
    def plain(cls, features: Float[Tensor, "n d"]) -> "Coordinates":
        """Representations as they are."""
        return cls(torch.zeros_like(features[0]), torch.ones_like(features[0]))

    @classmethod
    def of(cls, features: Float[Tensor, "n d"], shrinkage: float) -> "Coordinates":
        """Whitened, the small directions less so; see `FirstRows.shrinkage`."""
        mean, length = features.mean(0), features.shape[1]
        centred = features - mean
        variance = centred.square().mean(0)
        floor = shrinkage * variance.mean().clamp_min(1e-30)
        if length > LARGEST_WHITENED:
            return cls(mean, (variance + floor).rsqrt())
        values, basis = torch.linalg.eigh((centred.T @ centred / len(features)).double())
        return cls(mean, (basis * (values.clamp_min(0) + floor).rsqrt() @ basis.T).to(features))

    def __call__(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Representations to coordinates."""
        centred = x - self.mean
        return centred * self.map if self.map.ndim == 1 else centred @ self.map

    def folded(self, weight: Float[Tensor, "h d"], bias: Float[Tensor, " h"]) -> tuple[Tensor, Tensor]:
        """The rows for representations as they are."""
        rows = weight * self.map if self.map.ndim == 1 else weight @ self.map
        return rows, bias - rows @ self.mean


@dataclass
class HeadTraining:
    """One training, epoch by epoch; what is best on held-out representations is kept.

    Attributes:
        features: public representations (n, d), the last of which are held out.
        labels: theirs.
        width: rows of the first layer.
    """

    features: Tensor
    labels: Tensor
    classes: int
    width: int
    settings: SpAB
    rng: torch.Generator
    watch: Watch
    done: int = 0
    best: HeadWeights | None = None
    best_score: float = -1.0
    best_accuracy: float = 0.0
    kept_accuracy: float = 0.0
    curve: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        held = min(MOST_HELD_OUT, max(1, int(HELD_OUT * len(self.features))))
        self.held, self.held_labels = self.features[-held:], self.labels[-held:]
        train = self.features[:-held]
        plain = self.settings.rows.start == "default"
        self.coordinates = Coordinates.plain(train) if plain else Coordinates.of(train, self.settings.rows.shrinkage)
        self.inputs, self.targets = self.coordinates(train), self.labels[:-held]
        if self.settings.mislabel:
            # Another class by turns, the same for all examples of one class.
            self.targets = (self.targets + 1) % self.classes
        self.values = self._start()
        decayed = {"params": [self.values[2]], "weight_decay": self.settings.decay}
        self.optimiser = torch.optim.AdamW(
            [{"params": [self.values[k] for k in (0, 1, 3)], "weight_decay": 0.0}, decayed], self.settings.schedule.lr
        )

    def _start(self) -> list[Tensor]:
        drawn = default_layers(self.inputs.shape[1], self.width, self.classes, self.rng, self.inputs)
        if self.settings.rows.start == "default":
            values = [drawn.weight, drawn.bias, drawn.last_weight, drawn.last_bias]
            return [v.clone().requires_grad_() for v in values]
        length = self.inputs.square().sum(1).mean().sqrt()  # so that outputs deviate by about 1
        weight = randn(tuple(drawn.weight.shape), self.rng, self.inputs) / length
        bias = torch.full_like(drawn.bias, self.settings.rows.constant)
        if self.settings.rows.start == "quantile":
            bias = quantile_bias(weight, self.inputs, self._rates(bias))
        values = [weight, bias, drawn.last_weight, drawn.last_bias]
        return [v.clone().requires_grad_() for v in values]

    def _rates(self, like: Tensor) -> Float[Tensor, " h"]:
        settings = self.settings
        rates = torch.full_like(like, settings.rows.rate)
        dense, frequent = round(settings.rows.dense * self.width), round(settings.rows.frequent * self.width)
        rates[:dense] = 0.5
        rates[dense : dense + frequent] = torch.logspace(-math.log10(6), -math.log10(24), frequent).to(like)
        return rates

    def run(self) -> HeadWeights:
        """All epochs, or as many as the budget allows; goes on from the watch's state."""
        if (state := self.watch.load()) is not None:
            self._resume(state)
        total = self.settings.schedule.epochs
        while self.done < total and not (self.watch.out_of_time() and self.best is not None):
            self._epoch()
            self.done += 1
            self._judge()
            self.watch.progress(self.done, total, 1 - self.best_score)
            self.watch.save(self._state, last=self.done == total)
        assert self.best is not None
        return self.best

    def _epoch(self) -> None:
        settings, total = self.settings, self.settings.schedule.epochs * self.settings.schedule.steps
        self._disturb()
        for step in range(self.done * settings.schedule.steps, (self.done + 1) * settings.schedule.steps):
            progress = step / total
            rate = settings.schedule.lr * min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * progress))
            for group in self.optimiser.param_groups:
                group["lr"] = rate
            chosen = torch.randint(len(self.inputs), (settings.schedule.minibatch,), generator=self.rng).to(
                self.inputs.device
            )
            loss = self._loss(self.inputs[chosen], self.targets[chosen], progress)
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()

    def _disturb(self) -> None:
        if self.settings.columns.noise:
            with torch.no_grad():
                for value in self.values[:2]:
                    size = self.settings.columns.noise * float(self.values[0].square().mean().sqrt())
                    value += size * randn(tuple(value.shape), self.rng, value)

    def _loss(self, x: Tensor, labels: Tensor, progress: float) -> Tensor:
        settings = self.settings
        outputs = functional.linear(x, self.values[0], self.values[1])
        loss = functional.cross_entropy(functional.linear(outputs.relu(), self.values[2], self.values[3]), labels)
        if settings.columns.sparsity:
            ramp = 0.5 * (1 - math.cos(math.pi * progress))
            columns = settings.columns
            loss = loss + columns.sparsity * ramp * column_sparsity(outputs, columns.alive, columns.alive_over)
        if settings.expected.leakage:
            start, end = settings.expected.temperature
            u = outputs / (start * (end / start) ** progress)
            loss = loss + settings.expected.leakage * expected_loss(
                u, settings.expected.sizes, settings.expected.emphasis
            )
        return loss

    def _judge(self) -> None:
        """Keeps the epoch if it leaks more on held-out examples than those before, and classifies about as well."""
        head = self._head()
        sizes = [s for s in self.settings.expected.sizes if s <= len(self.held)] or [len(self.held)]
        score = sum(head.leakage(self.held, s) for s in sizes) / len(sizes)
        targets = (self.held_labels + 1) % self.classes if self.settings.mislabel else self.held_labels
        accuracy = head.accuracy(self.held, targets)
        self.best_accuracy = max(self.best_accuracy, accuracy)
        enough = self.best_accuracy - self.settings.accuracy_loss
        poor = self.kept_accuracy < enough
        if self.best is None or (accuracy >= enough and (poor or score >= self.best_score)):
            self.best, self.best_score, self.kept_accuracy = head, score, accuracy

    def _head(self) -> HeadWeights:
        weight, bias, last_weight, last_bias = (v.detach().clone() for v in self.values)
        return HeadWeights(*self.coordinates.folded(weight, bias), last_weight, last_bias)

    def _state(self) -> State:
        assert self.best is not None
        best = [self.best.weight, self.best.bias, self.best.last_weight, self.best.last_bias]
        return {
            "values": [v.detach() for v in self.values],
            "optimiser": self.optimiser.state_dict(),
            "best": best,
            "numbers": [self.done, self.best_score, self.best_accuracy, self.kept_accuracy],
            "rng": self.rng.get_state(),
        }

    def _resume(self, state: State) -> None:
        with torch.no_grad():
            for value, kept in zip(self.values, state["values"], strict=True):
                value.copy_(kept)
        self.optimiser.load_state_dict(state["optimiser"])
        self.best = HeadWeights(*(v.to(self.features) for v in state["best"]))
        done, self.best_score, self.best_accuracy, self.kept_accuracy = state["numbers"]
        self.done = int(done)
        self.rng.set_state(state["rng"])


def expected_loss(u: Float[Tensor, "n h"], sizes: tuple[int, ...], emphasis: float) -> Float[Tensor, ""]:
    """Minus the mean log probability of owning a row, over batch sizes; the log looks after examples that own none.

    Args:
        u: log odds of firing.
        sizes: of batches; those above n are judged by the rows' mean rates.
        emphasis: see `ExpectedLeakage`.
    """
    total, softplus = u.new_zeros(()), functional.softplus(u)
    for size in sizes:
        whole = len(u) // size * size or len(u)
        weight = (max(sizes) / size) ** emphasis
        total = total - weight * (expected_leakage(u[:whole], size, softplus[:whole]) + 1e-3).log().mean()
    return total


def column_sparsity(
    outputs: Float[Tensor, "n h"], alive: float, alive_over: AliveOver = "maximum"
) -> Float[Tensor, ""]:
    """Eq. 8, rebuilt: the l1 norms of the columns of the activation, and a term against dead neurons; sums over n.

    Args:
        outputs: Z, of the first layer before the ReLU.
        alive: r, weight of that term.
        alive_over: "maximum" sums softplus(-max_i Z_ij) over columns, "entries" softplus(-Z_ij) over all entries.
    """
    silent = -outputs.amax(0) if alive_over == "maximum" else -outputs
    return (outputs.relu().sum() + alive * functional.softplus(silent).sum()) / len(outputs)
