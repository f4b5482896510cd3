"""The arithmetic of `matching table`: time to a quality, and quality at a time."""

import math
import statistics
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

NEVER = math.inf


@dataclass(frozen=True)
class Timed:
    """PSNR in dB against seconds, which rise; the last point is what was returned."""

    seconds: tuple[float, ...]
    psnr: tuple[float, ...]

    @property
    def end(self) -> float:
        """Seconds of the whole run."""
        return self.seconds[-1]

    @property
    def final(self) -> float:
        """PSNR of what was returned."""
        return self.psnr[-1]

    def at(self, seconds: float) -> float:
        """PSNR at this time; -inf before the first point."""
        passed = bisect_right(self.seconds, seconds)
        return self.psnr[passed - 1] if passed else -math.inf

    def reach(self, level: float) -> float:
        """Seconds at which the PSNR is first at least `level`; `NEVER` if it never is."""
        highest = [max(self.psnr[: k + 1]) for k in range(len(self.psnr))]
        first = bisect_left(highest, level)
        return self.seconds[first] if first < len(highest) else NEVER


@dataclass(frozen=True)
class Row:
    """One run of fedspill beside the peer's of the same case, image and seed.

    Attributes:
        peer_psnr: final, dB.
        peer_seconds: of its whole run.
        psnr: at the peer's time, dB.
        seconds: to the peer's final PSNR.
        peer_first: seconds at which the peer first had its final PSNR.
    """

    case: str
    image: int
    seed: int
    tool: str
    peer_psnr: float
    peer_seconds: float
    psnr: float
    seconds: float
    peer_first: float

    @property
    def share(self) -> float:
        """Of the peer's whole time."""
        return self.seconds / self.peer_seconds

    @property
    def strict_share(self) -> float:
        """Of the time at which the peer first had its final PSNR."""
        return self.seconds / self.peer_first


def compared(key: tuple[str, int, int], tool: str, own: Timed, peer: Timed) -> Row:
    """Both runs of one case, image and seed."""
    level = peer.final
    return Row(*key, tool, level, peer.end, own.at(peer.end), own.reach(level), peer.reach(level))


def geometric_mean(shares: Sequence[float]) -> float:
    """Infinite where one is; NaN of none."""
    if not shares:
        return math.nan
    return NEVER if math.inf in shares else statistics.geometric_mean(shares)
