"""How numbers are written for people: units, percentages, durations, intervals."""

import textwrap
from collections.abc import Iterable

from fedspill.report.trial import Rate

PSNR_CAP = 100.0
"""dB; a reconstruction at the cap is exact up to rounding."""

_NAMES = {
    "psnr": "PSNR",
    "ssim": "SSIM",
    "ms_ssim": "MS-SSIM",
    "lpips": "LPIPS",
    "mse": "MSE",
    "mae": "MAE",
    "bleu": "BLEU",
    "rouge_1": "ROUGE-1",
    "rouge_2": "ROUGE-2",
    "rouge_l": "ROUGE-L",
    "tableak_accuracy": "TabLeak accuracy",
}


def metric_name(metric: str) -> str:
    """The metric as the field writes it."""
    return _NAMES.get(metric, metric.replace("_", " "))


def number(value: float | None, unit: str = "") -> str:
    """A score with its unit; a dash where there is none."""
    if value is None:
        return "–"
    text = digits(value) if unit != "dB" else f"{value:.1f}".removesuffix(".0" if value >= PSNR_CAP else "")
    return f"{text} {unit}".rstrip()


def digits(value: float) -> str:
    """A number in three decimals, or with an exponent where these would not do."""
    size = abs(value)
    if size >= 10_000 or 0 < size < 0.001:
        return f"{value:.2e}"
    return f"{value:.3f}" if size < 10 else f"{value:.1f}"


def plain(value: float | None, unit: str = "") -> str:
    """A score without its unit, for a table whose head names the unit."""
    return number(value, unit).removesuffix(f" {unit}")


def score(metric: str, value: float | None, unit: str = "") -> str:
    """A score that also says when it stands at its metric's cap."""
    exact = metric == "psnr" and value is not None and value >= PSNR_CAP
    return number(value, unit) + (" (exact)" if exact else "")


def criterion(text: str) -> str:
    """`psnr >= 20 dB` as people write it."""
    words = [metric_name(word) for word in text.split()]
    return " ".join(words).replace(">=", "≥").replace("<=", "≤")


def percent(share: float) -> str:
    """A share as a percentage; small ones keep a decimal."""
    value = 100 * share
    return f"{value:.1f} %" if 0 < value < 1 or 99 < value < 100 else f"{value:.0f} %"


def interval(low: float, high: float) -> str:
    """The two ends of a 95 % interval, e.g. "39–82 %"."""
    return f"{percent(low).removesuffix(' %')}–{percent(high)}"


def rate(value: Rate) -> str:
    """A share with its counts and its Wilson interval in one phrase."""
    ends = interval(value.low, value.high)
    return f"{percent(value.rate)} ({value.hits} of {value.n}; 95 % interval {ends})"


def duration(seconds: float) -> str:
    """Seconds as a person would say them."""
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def count(n: int, noun: str) -> str:
    """`1 example`, `2 examples`."""
    plural = noun if n == 1 else noun + ("es" if noun.endswith(("x", "s")) else "s")
    return f"{n:,} {plural}"


def brief(text: str, most: int = 80) -> str:
    """A description cut to a headline's length, between words where it can be."""
    return textwrap.shorten(text, most, placeholder=" ...") if len(text) > most else text


def listing(items: Iterable[object], most: int = 8) -> str:
    """Items separated by commas; a long list is cut and says how long it is."""
    every = [str(i) for i in items]
    return ", ".join(every[:most]) + (f", … ({len(every)} in all)" if len(every) > most else "")
