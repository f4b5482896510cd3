"""Records of many pairs as lists of numbers under one list of names."""

from typing import Any

Pair = dict[str, Any]


def packed(pairs: dict[str, list[Pair]]) -> dict[str, Any]:
    """Pairs by target, each a list of values; what was nested is named "a/b", and yes and no are 1 and 0."""
    flat = {k: [_flat(p) for p in each] for k, each in pairs.items()}
    names = list(dict.fromkeys(name for each in flat.values() for p in each for name in p))
    return {"names": names, "pairs": {k: [[p.get(n) for n in names] for p in each] for k, each in flat.items()}}


def unpacked(record: dict[str, Any]) -> dict[str, list[Pair]]:
    """The pairs again, under the flat names."""
    return {k: [dict(zip(record["names"], p, strict=True)) for p in each] for k, each in record["pairs"].items()}


def _flat(pair: Pair, before: str = "") -> Pair:
    found = Pair()
    for name, value in pair.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{before}{name}/")
        elif isinstance(value, list):
            found |= {f"{before}{name}/{k}": v for k, v in enumerate(value)}
        else:
            found[before + name] = int(value) if isinstance(value, bool) else value
    return found
