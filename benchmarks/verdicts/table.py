"""Identification over PSNR, and how often the rule of the verdict agrees with it, from what `images` and `rows` wrote.

`python -m benchmarks.verdicts.table`
"""

import json
from collections.abc import Callable
from itertools import pairwise

from benchmarks.common import places
from benchmarks.verdicts.images import HELD_OUT
from benchmarks.verdicts.packing import Pair, unpacked

RESULTS = places.RESULTS / "verdicts"
BANDS = (0, 8, 10, 12, 14, 16, 18, 20, 22, 24, 30, 101)
DISTANCES = ("pixel", "ssim", "lpips")
RIVALS = {
    "the same": "the same 100 as the reference",
    "own class": "100 others, of its class where there are so many",
    "any class": "100 others of any class",
    "photographs": "100 photographs of the package",
}


def identified(pair: Pair, what: str = "identified") -> bool:
    """Whether the target is nearest by two of three distances at least."""
    return sum(pair[f"{what}/{k}"] for k in DISTANCES) >= 2


def share(pairs: list[Pair], holds: Callable[[Pair], object]) -> str:
    """As a percentage."""
    return f"{sum(bool(holds(p)) for p in pairs) / len(pairs):.1%}" if pairs else "-"


def by_quality(pairs: list[Pair]) -> list[str]:
    """Rows of identification over PSNR, guesses left out."""
    rows = ["| PSNR, dB | pairs | identified | by pixels | by SSIM | by LPIPS |", "|---|---|---|---|---|---|"]
    for low, high in pairwise(BANDS):
        some = [p for p in pairs if low <= p["psnr"] < high and not is_guess(p)]
        words = f"{low} to {high}" if high < 101 else f"from {low}"
        each = " | ".join(share(some, lambda p, k=k: p[f"identified/{k}"]) for k in DISTANCES)
        rows.append(f"| {words} | {len(some)} | {share(some, identified)} | {each} |")
    return rows


def is_guess(pair: Pair) -> bool:
    """Whether it was made without the target."""
    return pair["kind"].startswith("guess")


def agreement(pairs: list[Pair]) -> list[str]:
    """Rows of what the rule says beside the reference."""
    guesses = [p for p in pairs if is_guess(p)]
    blind = [p for p in guesses if "nearest" not in p["kind"]]
    rows = [
        "| told from | agrees | says more | says less | of guesses | of these chosen with the truth |",
        "|---|---|---|---|---|---|",
    ]
    for name, words in RIVALS.items():
        said = f"recognised/{name}"
        over, under = (
            share(pairs, lambda p, w=w, s=said: bool(p[s]) is w and identified(p) is not w) for w in (True, False)
        )
        agrees = share(pairs, lambda p, s=said: bool(p[s]) == identified(p))
        counts = [f"{sum(p[said] for p in g)} of {len(g)}" for g in (blind, [p for p in guesses if p not in blind])]
        rows.append(f"| {words} | {agrees} | {over} | {under} | {counts[0]} | {counts[1]} |")
    again = share(pairs, lambda p: identified(p) == identified(p, "identified again"))
    return [*rows, "", f"The reference agrees with itself, of another draw of distractors, on {again}."]


def of_rows(pairs: dict[str, list[Pair]], held: int) -> list[str]:
    """Rows for each kind of sentences and rows, of the held-out targets."""
    rows = ["| data | pairs | agrees | without others | guesses | without others |", "|---|---|---|---|---|---|"]
    for name in dict.fromkeys(k.rpartition(", ")[0] for k in pairs):
        some = [p for k, each in pairs.items() for p in each if k.startswith(name) and _number(k) >= held]
        blind = [p for p in some if is_guess(p) or p["share"] == 0]
        cells = [share(some, lambda p, k=k: p[f"recognised/{k}"] == p["identified"]) for k in ("told", "alone")] + [
            f"{sum(p[f'recognised/{k}'] for p in blind)} of {len(blind)}" for k in ("told", "alone")
        ]
        rows.append(f"| {name} | {len(some)} | {' | '.join(cells)} |")
    return rows


def _number(key: str) -> int:
    return int(key.rpartition(", ")[2])


def main() -> None:
    pictures = unpacked(json.loads((RESULTS / "images.json").read_text()))
    for words, held in (("calibration", False), ("held out", True)):
        some = [p for k, each in pictures.items() for p in each if (_number(k) >= HELD_OUT) is held]
        print(f"\n{words}: {len(some)} pairs\n", *by_quality(some), "", *agreement(some), sep="\n")
    rows = unpacked(json.loads((RESULTS / "rows.json").read_text()))
    print("", *of_rows(rows, (1 + max(map(_number, rows))) // 2), sep="\n")


if __name__ == "__main__":
    main()
