"""Valid plans, mutated: values of odd types and sizes, deletions, unknown keys, deep nesting."""

import datetime
import json
import math
import tomllib
from typing import Any

from hypothesis import strategies as st

from tests.support.places import PLANS

SMALL = {
    "audit": {"attacks": ["linear_layer"], "metrics": ["psnr"], "leak_threshold": {"psnr": 20.0}},
    "model": {"name": "mlp", "hidden": [4]},
    "data": {"name": "photos", "size": 4, "indices": "0:2"},
    "client": {"num_examples": 1},
}
BASES: list[dict[str, Any]] = [
    SMALL,
    {**SMALL, "audit": {"attacks": [{"name": "inverting_gradients", "steps": 1}], "seeds": [0], "metrics": ["mse"]}},
    {**SMALL, "audit": {"attacks": ["dlg", "idlg"], "quality": "20dB"}, "model": {"name": "lenet"}},
    {
        **SMALL,
        "server": {
            "knows": ["labels", "num_examples", "public_data"],
            "public": {"name": "photos", "size": 4, "split": "public", "indices": "0:8"},
        },
    },
    {**SMALL, "defences": [{"name": "clipping"}], "policy": {"max_leakage_rate": 0.5, "max_psnr": 30.0}},
    {
        "audit": {"attacks": ["linear_layer"]},
        "model": {"name": "mlp", "hidden": [4]},
        "data": {"name": "iris", "indices": "0:2"},
    },
    {"audit": {"attacks": ["linear_layer"]}, "data": {"name": "sentences", "length": 4, "indices": "0:1"}},
    {
        **SMALL,
        "client": {
            "num_examples": 2,
            "protocol": "fedavg",
            "epochs": 2,
            "lr": 0.1,
            "minibatch_size": 1,
            "trainable": ["*"],
        },
    },
    *(
        {**tomllib.loads(path.read_text()), "data": SMALL["data"], "model": SMALL["model"]}
        for path in sorted(PLANS.glob("*.toml"))
    ),
]

KEYS = (
    *("audit", "model", "data", "client", "server", "defences", "policy", "public", "name", "root", "split", "indices"),
    *("size", "length", "tokenizer", "label", "attacks", "seeds", "metrics", "leak_threshold", "quality", "at_once"),
    *("lpips_weights", "identification", "weights", "mode", "seed", "dtype", "num_classes", "hidden", "width", "bias"),
    *("protocol", "num_examples", "epochs", "minibatch_size", "lr", "momentum", "weight_decay", "trainable", "clients"),
    *("distinct_labels", "micro_batch", "knows", "role", "tampering", "max_leakage_rate", "max_psnr", "require_bound"),
    *("steps", "preset", "normalise", "activation", "restarts", "tv", "labels", "rows", "bins", "clip", "sigma"),
)
WORDS = (
    *(
        "",
        " ",
        "x",
        "standard",
        "linear_layer",
        "dlg:quick",
        "inverting_gradients:nothing",
        "nex",
        "psnr",
        "ssim",
        "a:b",
    ),
    *("mlp", "lenet", "resnet20", "transformer", "torchvision:resnet18", "os:getcwd", "fedspill:audit", "photos"),
    *("iris", "sentences", "folder:.", "npz:/dev/null", "csv:/dev/null", "text:/dev/null", "folder:/proc", "0:1", "3"),
    *("9:1", "train", "eval", "fedavg", "fedsgd", "labels", "public_data", "local_training", "malicious_parameters"),
    *("../..", "/", "~", "~nobody-at-all/x", "\0", "a\0b", "\x1b[31m", "é" * 300, "x" * 5000, "[", "*", "untrained"),
    *("imagenet", "none", "bytes", "1h", "0s", "-1s", "20dB", "nan", "float64", "relu", "gelu", "linear", "cuda"),
)
NUMBERS: tuple[Any, ...] = (
    *(0, 1, 2, 3, 7, -1, -(2**31), 2**31, 2**32, 2**53, 2**63 - 1, -(2**63), 2**63, 2**64, 10**40, 10**4000),
    *(0.0, -0.0, 0.5, 1.5, -1.0, 1e-320, 1e-30, 1e30, 1e308, math.inf, -math.inf, math.nan),
)


def _nested(depth: int, table: bool) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": value} if table else [value]
    return value


scalars = st.one_of(
    st.sampled_from(NUMBERS),
    st.sampled_from(WORDS),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.sampled_from([datetime.date(1979, 5, 27), datetime.time(7, 32), datetime.datetime(1979, 5, 27)]),
)
lists = st.lists(scalars, max_size=3)
values = st.one_of(
    scalars,
    scalars,
    lists,
    st.dictionaries(st.sampled_from(KEYS), scalars | lists, max_size=3),
    st.lists(lists | st.dictionaries(st.sampled_from(KEYS), scalars, max_size=3), max_size=3),
    st.builds(_nested, st.sampled_from([3, 40, 400]), st.booleans()),
)


def places(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of everything inside a table."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path for key, part in inner for path in ((*here, key), *places(part, (*here, key)))]


@st.composite
def mutated(draw: st.DrawFn, base: Any, most: int = 3) -> Any:
    """A table of which one thing or a few have changed."""
    value = json.loads(json.dumps(base))
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, most]))):
        found = places(value)
        if not found:
            return draw(values)
        path = draw(st.sampled_from(found))
        holder = value
        for step in path[:-1]:
            holder = holder[step]
        kind = draw(st.sampled_from(["replace", "replace", "replace", "delete", "add", "wrap", "copy"]))
        if kind == "delete":
            del holder[path[-1]]
        elif kind == "wrap":
            holder[path[-1]] = draw(st.sampled_from([[holder[path[-1]]], {"a": holder[path[-1]]}]))
        elif kind == "add" and isinstance(holder, dict):
            holder[draw(st.sampled_from(KEYS))] = draw(values)
        elif kind == "copy":
            source = value
            for step in draw(st.sampled_from(found)):
                source = source[step] if isinstance(source, dict | list) and _has(source, step) else source
            holder[path[-1]] = json.loads(json.dumps(source, default=str)) if len(repr(source)) < 9999 else 1
        else:
            holder[path[-1]] = draw(values)
    return value


def _has(holder: Any, step: Any) -> bool:
    return step in holder if isinstance(holder, dict) else isinstance(step, int) and step < len(holder)


def toml(table: dict[str, Any]) -> str:
    """A table as TOML, its values inline."""
    return "".join(f"{_text(key)} = {_inline(value)}\n" for key, value in table.items())


def _inline(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_text(str(k))} = {_inline(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_inline, value)) + "]"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int) and abs(value) > 10**40:
        return "9" * 5000
    return value.isoformat() if hasattr(value, "isoformat") else "''" if value is None else str(value)


def _text(value: str) -> str:
    return json.dumps(value).replace("\x7f", "\\u007f")


plans = st.sampled_from(BASES).flatmap(mutated).filter(lambda value: isinstance(value, dict)).map(toml)
