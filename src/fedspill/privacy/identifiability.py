"""Without noise: whether an update determines the inputs near the true ones, and how strongly.

The update is u(x); by small changes of x it changes by J dx. Where J has full rank, no other inputs near x have the
same update; its smallest singular value says how far inputs may lie apart whose updates differ by no more than
rounding. This is no bound on an attack: other inputs, far away, may have the same update, and none may be found. And
where the rank is not full, the update leaves directions open, which a prior may still fill.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

from fedspill.privacy.jacobian import Jacobian

FLOAT32 = 2.0**-24
"""Relative rounding of one number."""
MOST_COLUMNS = 4096
"""Values of inputs up to which J^T J is written down."""


@dataclass(frozen=True)
class Identifiability:
    """The spectrum of the Jacobian of an update by the inputs.

    Attributes:
        values: of the inputs.
        numbers: in the update.
        rank: directions of the inputs that the update tells; None where the spectrum was not computed whole.
        largest: singular value.
        smallest: of the `values` singular values, counted with those that are 0; None where no method found it.
        exact: from the matrix itself; False by products with it.
        length: Euclidean norm of the update.
    """

    values: int
    numbers: int
    rank: int | None
    largest: float
    smallest: float | None
    exact: bool
    length: float

    @property
    def determined(self) -> bool | None:
        """No other inputs near by have this update; None if that was not found out."""
        return None if self.rank is None else self.rank == self.values

    @property
    def blur(self) -> float:
        """How far the inputs may be moved, in the weakest direction, by rounding the update to float32.

        Euclidean, in the inputs' unit; infinite where they are not determined.
        """
        if not self.smallest or not self.determined:
            return math.inf
        return FLOAT32 * self.length / self.smallest


def identifiability(jacobian: Jacobian, *, iterations: int = 2000) -> Identifiability:
    """The spectrum: of the matrix where it can be written down, else of J^T J, else its ends by Lanczos's method.

    Args:
        jacobian: of the update, by the inputs.
        iterations: of Lanczos's method.
    """
    if jacobian.small:
        values = torch.linalg.svdvals(jacobian.matrix())
        return _told(jacobian, values, 10 * max(jacobian.rows, jacobian.columns) * 2.0**-53, exact=True)
    if jacobian.columns <= MOST_COLUMNS:
        units = torch.eye(jacobian.columns, dtype=jacobian.update.dtype, device=jacobian.update.device)
        gram = torch.stack([jacobian.back(jacobian.forward(unit)) for unit in units])
        values = torch.linalg.eigvalsh((gram + gram.T) / 2).flip(0).clamp_min(0).sqrt()
        return _told(jacobian, values, math.sqrt(10 * jacobian.columns * 2.0**-53), exact=True)
    return _by_ends(jacobian, iterations)


def _told(jacobian: Jacobian, values: torch.Tensor, tolerance: float, *, exact: bool) -> Identifiability:
    """Singular values in falling order; those below `tolerance` of the largest are 0."""
    top = float(values[0])
    rank = int((values > tolerance * top).sum())
    smallest = float(values[-1]) if rank == jacobian.columns else 0.0
    return Identifiability(jacobian.columns, jacobian.rows, rank, top, smallest, exact, float(jacobian.update.norm()))


def _by_ends(jacobian: Jacobian, iterations: int) -> Identifiability:
    """The largest and the smallest; a rank only where that follows from them, or from counting."""
    like = jacobian.update

    def product(v: np.ndarray) -> np.ndarray:
        return jacobian.back(jacobian.forward(torch.as_tensor(v.ravel()).to(like))).cpu().numpy()

    gram = LinearOperator((jacobian.columns, jacobian.columns), matvec=product, dtype=np.float64)  # pyright: ignore[reportCallIssue]
    top = _end(gram, "LA", iterations) or 0.0
    low = 0.0 if jacobian.rows < jacobian.columns else _end(gram, "SA", iterations)
    full = low is not None and low > 10 * jacobian.columns * 2.0**-53 * top
    smallest = None if low is None else (math.sqrt(low) if full else 0.0)
    return Identifiability(
        jacobian.columns,
        jacobian.rows,
        jacobian.columns if full else None,
        math.sqrt(top),
        smallest,
        exact=False,
        length=float(like.norm()),
    )


def _end(gram: LinearOperator, which: str, iterations: int) -> float | None:
    start = np.random.default_rng(0).standard_normal(gram.shape[0])
    try:
        found = eigsh(gram, k=1, which=which, maxiter=iterations, v0=start, return_eigenvectors=False)
    except ArpackNoConvergence:
        return None
    return max(0.0, float(np.asarray(found)[0]))
