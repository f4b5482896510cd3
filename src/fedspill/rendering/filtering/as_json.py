"""A tested filter chain as JSON."""

import json
import math
from dataclasses import asdict
from typing import Any

from fedspill.core.roles import Exposed
from fedspill.rendering.filtering import words
from fedspill.report.filtering import Filtering


def as_json(done: Filtering) -> str:
    """All of it; numbers that JSON has no sign for are text."""
    told = {
        "chain": done.source,
        "steps": done.steps,
        "exit_code": done.exit_code,
        "headline": words.headline(done),
        "model": done.model,
        "examples": done.examples,
        "pushes": done.pushes,
        "cosine": done.cosine,
        "noise_law": done.law,
        "tensors": [asdict(fate) for fate in done.fates],
        "odd": done.odd,
        "before": [_attack(one) for one in done.before],
        "after": [_attack(one) for one in done.after],
        "knowing": [_attack(one) for one in done.knowing],
        "averaged": [_attack(one) for one in done.averaged],
        "privacy": {**asdict(done.privacy), "text": done.privacy.text},
        "findings": [{**asdict(f), "alarm": f in done.alarms} for f in done.findings],
        "notes": done.notes,
        "seconds": done.seconds,
    }
    return json.dumps(_plain(told), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _attack(one: Exposed) -> dict[str, Any]:
    read = {"read": int(one.read.sum()), "examples": len(one.read)}
    return {"attack": one.attack, **read, "closest": one.closest, "criterion": one.criterion, "failed": one.failed}


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value
