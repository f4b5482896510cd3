"""How a leaking head is trained: the settings, with those of the paper and of a plain head."""

from dataclasses import dataclass
from typing import Literal

from fedspill.core.errors import BadInput
from fedspill.core.settings import Group, plain_fields


@dataclass(frozen=True)
class HeadSchedule(Group):
    """How long a head is trained, and how fast.

    Attributes:
        epochs: 50 in the paper for CIFAR-10, 30 for ImageNet; how long one is, is lost.
        steps: mini-batches per epoch.
        minibatch: public examples per step.
        lr: of Adam at its highest; it falls to 0 on a cosine. In whitened coordinates.
    """

    epochs: int = 25
    steps: int = 20
    minibatch: int = 512
    lr: float = 7e-3

    def __post_init__(self) -> None:
        if min(self.epochs, self.steps, self.minibatch) < 1 or not self.lr > 0:
            raise BadInput(
                f"epochs={self.epochs}, steps={self.steps}, minibatch={self.minibatch}, lr={self.lr} must be above 0"
            )


@dataclass(frozen=True)
class ExpectedLeakage(Group):
    """The wanted number as an objective: the probability that an example of a batch owns a row. Not in the paper.

    Attributes:
        leakage: weight of the expected leakage; 0 leaves the paper's objective.
        sizes: batch sizes for which leakage is trained and measured.
        emphasis: a size counts (largest size / size) ** emphasis: in small batches nearly all leak, and the last few
            are the hardest to reach.
        temperature: of the sigmoid that stands for firing, at the start and the end, in units of the rows' deviation.
    """

    leakage: float = 15.0
    sizes: tuple[int, ...] = (16, 64, 256)
    emphasis: float = 0.4
    temperature: tuple[float, float] = (0.3, 0.105)

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) < 2:
            raise BadInput(f"sizes={self.sizes}: at least one batch size, each of 2 examples or more, is needed")
        if not self.leakage >= 0 or not min(self.temperature) > 0:
            raise BadInput(f"leakage={self.leakage} must be 0 or more, temperature={self.temperature} above 0")


AliveOver = Literal["maximum", "entries"]
"""The two readings of the paper's term against dead neurons; see `ColumnSparsity`."""


@dataclass(frozen=True)
class ColumnSparsity(Group):
    """The paper's objective (eq. 8, rebuilt): sparse columns of the activation, none of them dead.

    Attributes:
        sparsity: lambda, at the end of its cosine schedule.
        alive: r, weight of the term against dead neurons.
        noise: standard deviation of the noise on the first layer per epoch, relative to its weights.
        alive_over: what that term sums softplus of: "maximum", the negated maximum of each column, so that each keeps
            an example that fires it; "entries", the negated outputs of all examples. The paper's formula is lost, and
            its words (a penalty on negative values, a maximum relaxed by softplus) fit both. A weight for the one is
            not one for the other: see `PAPER` and `PAPER_ENTRIES`.
    """

    sparsity: float = 0.022
    alive: float = 3.0
    noise: float = 0.07
    alive_over: AliveOver = "maximum"

    def __post_init__(self) -> None:
        if not (self.sparsity >= 0 and self.alive >= 0 and self.noise >= 0):
            raise BadInput(f"sparsity={self.sparsity}, alive={self.alive}, noise={self.noise} must be 0 or more")


@dataclass(frozen=True)
class FirstRows(Group):
    """How the rows of the first layer start.

    Attributes:
        start: biases of the first layer: "quantile" lets rows fire at given rates, "constant" starts all at `constant`;
            "default" is PyTorch's, on representations as they are.
        rate: of most rows, at the start.
        frequent: share of rows that start at rates from 1/6 to 1/24, for small batches.
        dense: share of rows that start at 1/2; no batch is small enough for these to leak, so they serve accuracy.
        constant: in units of the rows' deviation.
        shrinkage: of the whitening, relative to the mean variance; the larger, the less small directions count.
    """

    start: Literal["quantile", "constant", "default"] = "quantile"
    rate: float = 1 / 48
    frequent: float = 0.2
    dense: float = 0.024
    constant: float = -1.0
    shrinkage: float = 4.2

    def __post_init__(self) -> None:
        if not 0 < self.rate < 1:
            raise BadInput(f"rate={self.rate} must lie between 0 and 1")
        if not (self.frequent >= 0 and self.dense >= 0 and self.frequent + self.dense <= 1):
            raise BadInput(f"frequent={self.frequent} and dense={self.dense} must be shares of the rows")
        if not self.shrinkage >= 0:
            raise BadInput(f"shrinkage={self.shrinkage} must be 0 or more")


@dataclass(frozen=True)
class SpAB:
    """How a head is trained.

    The defaults, those of `PAPER`, of `PAPER_ENTRIES` and the rate of the quantile head are what 25 trials of Optuna's
    sampler (18 rates) found on 2,560 training images of CIFAR-10 that no trial trained on: docs/results-maui.md.

    Attributes:
        schedule: how long, and how fast.
        expected: the expected leakage as an objective.
        columns: the paper's objective.
        rows: how the first layer starts.
        decay: weight decay of the second layer.
        mislabel: train on wrong labels, so that clients' examples are misclassified and their gradients are large and
            alike; against clipping (section 7.4.2).
        accuracy_loss: only checkpoints within this of the best accuracy so far are chosen.
        quantile: of the training-free "quantile" head: the share of examples for which a row fires.

    Raises:
        BadInput: a value is out of range.
    """

    schedule: HeadSchedule = HeadSchedule()
    expected: ExpectedLeakage = ExpectedLeakage()
    columns: ColumnSparsity = ColumnSparsity()
    rows: FirstRows = FirstRows()
    decay: float = 1e-3
    mislabel: bool = False
    accuracy_loss: float = 0.02
    quantile: float = 1 / 100

    def __post_init__(self) -> None:
        if not 0 < self.quantile < 1:
            raise BadInput(f"quantile={self.quantile} must lie between 0 and 1")
        if not (self.decay >= 0 and self.accuracy_loss >= 0):
            raise BadInput(f"decay={self.decay}, accuracy_loss={self.accuracy_loss} must be 0 or more")


PAPER = SpAB(
    HeadSchedule(lr=2.7e-2),
    ExpectedLeakage(leakage=0.0),
    ColumnSparsity(sparsity=0.029, alive=1.84, noise=0.063),
    FirstRows(start="constant", constant=-2.65, shrinkage=12.0, frequent=0.0, dense=0.0),
)
"""The paper's objective, its term against dead neurons on each column's maximum; the paper's own values are lost."""


PAPER_ENTRIES = SpAB(
    HeadSchedule(lr=1.84e-2),
    ExpectedLeakage(leakage=0.0),
    ColumnSparsity(sparsity=0.028, alive=0.0052, noise=0.048, alive_over="entries"),
    FirstRows(start="constant", constant=-2.67, shrinkage=7.75, frequent=0.0, dense=0.0),
)
"""The paper's objective with the other reading of that term: on all entries."""


PLAIN = SpAB(
    HeadSchedule(lr=1e-3),
    ExpectedLeakage(leakage=0.0),
    ColumnSparsity(sparsity=0.0, noise=0.0),
    FirstRows(start="default"),
    accuracy_loss=0.0,
)
"""An honest head's: cross-entropy alone, PyTorch's own start."""


def told_fields(settings: SpAB) -> dict[str, object]:
    """The fields as a plan writes them. `alive_over` came later: it is left out while it says nothing, so that the
    states and trials of older trainings are known again.
    """
    told = plain_fields(settings)
    if settings.columns.alive_over == ColumnSparsity.alive_over:
        del told["alive_over"]
    return told
