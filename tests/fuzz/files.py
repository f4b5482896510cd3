"""Files of every kind that fedspill reads, and broken ones made of them."""

import io
import json
import zipfile
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors.torch
import torch
from hypothesis import strategies as st
from PIL import Image

from fedspill.core.local_training.update import FedSGD, local_update
from fedspill.zoo.data import load
from fedspill.zoo.models import build
from tests.fuzz.plans import mutated, values

TOKENIZER = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [],
    "normalizer": {"type": "Lowercase"},
    "pre_tokenizer": {"type": "Whitespace"},
    "post_processor": None,
    "decoder": None,
    "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1, "c": 2}, "unk_token": "a"},
}
CSV = "age,kind,label\n1.5,a,x\n2,b,y\n3e2,a,x\n4,c,y\n"
CELLS = (
    *("1e999999", "-1e999999", "1e-999999", "nan", "inf", "", '"', '"a', "a,b", "\0", "9" * 5000, "é", "0x10", "1_000"),
    *(" 1 ", "+.5", "1e39", "-0", "\ufeff", "1e-99999999999999999999", "?", "label", "\r"),
)


@dataclass(frozen=True)
class Kind:
    """One kind of file.

    Attributes:
        suffix: with the dot.
        whole: contents that are read as they should be.
        data: name in a plan of data that lie in a file; "" of other kinds.
    """

    suffix: str
    whole: bytes
    data: str = ""


def model_files() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Weights of a small network, and an update of one photograph."""
    model = build("mlp", input_shape=(3, 4, 4), num_classes=10, options={"hidden": [4]})
    update = local_update(model, load("photos", indices="0:1", size=4).batch, FedSGD())
    return tuple({k: v.clone().contiguous() for k, v in held.items()} for held in (model.params, update.values))  # pyright: ignore


def saved(tensors: dict[str, torch.Tensor]) -> bytes:
    """As `torch.save` writes it."""
    file = io.BytesIO()
    torch.save(tensors, file)
    return file.getvalue()


def picture(kind: str, array: Any) -> bytes:
    """A picture of a kind."""
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind)
    return file.getvalue()


def archive(**arrays: Any) -> bytes:
    """A NumPy archive."""
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


GREY = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
DATA = {
    "npz": Kind(
        ".npz", archive(images=np.stack([GREY] * 3), labels=np.arange(3), label_names=np.array(list("abc"))), "npz"
    ),
    "csv": Kind(".csv", CSV.encode(), "csv"),
    "text": Kind(".txt", b"a b c b a\n = Title = \nb c a b c a b c", "text"),
    "png": Kind(".png", picture("PNG", np.stack([GREY] * 3, -1)), "folder"),
    "deep png": Kind(".png", picture("PNG", GREY.astype(np.uint16) * 257), "folder"),
    "tiff": Kind(".tif", picture("TIFF", GREY.astype(np.float32) / 255), "folder"),
    "whole tiff": Kind(".tif", picture("TIFF", GREY.astype(np.int32)), "folder"),
    "jpg": Kind(".jpg", picture("JPEG", GREY), "folder"),
    "gif": Kind(".gif", picture("GIF", GREY), "folder"),
    "pgm": Kind(".pgm", picture("PPM", GREY), "folder"),
    "bmp": Kind(".bmp", picture("BMP", GREY), "folder"),
    "webp": Kind(".webp", picture("WEBP", GREY), "folder"),
    "tokenizer": Kind(".json", json.dumps(TOKENIZER).encode(), "tokenizer"),
}


@st.composite
def broken(draw: st.DrawFn, whole: bytes, others: tuple[bytes, ...] = ()) -> bytes:
    """Bytes of which some are changed, cut off, put in, or put in the place of others."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, max(0, len(content) - 1)))
        kind = draw(st.sampled_from(["flip", "flip", "cut", "drop", "insert", "zero", "high", "append", "other"]))
        length = draw(st.integers(1, 40))
        if kind == "flip" and content:
            content[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del content[place:]
        elif kind == "drop":
            del content[place : place + length]
        elif kind == "insert":
            content[place:place] = draw(st.binary(min_size=1, max_size=40))
        elif kind in ("zero", "high"):
            content[place : place + length] = (b"\0" if kind == "zero" else b"\xff") * min(length, len(content) - place)
        elif kind == "append":
            content += whole[place:]
        elif others:
            content = bytearray(draw(st.sampled_from(others)))
    return bytes(content)


@st.composite
def broken_csv(draw: st.DrawFn) -> bytes:
    """A table with odd cells."""
    rows = [row.split(",") for row in CSV.strip().splitlines()]
    for _ in range(draw(st.integers(1, 3))):
        row = draw(st.sampled_from(rows))
        if row:
            row[draw(st.integers(0, len(row) - 1))] = draw(st.sampled_from(CELLS) | st.text(max_size=8))
        if draw(st.booleans()) and draw(st.booleans()):
            row.append("more") if draw(st.booleans()) else row.clear()
    return "\n".join(map(",".join, rows)).encode("utf-8", "replace")


@st.composite
def broken_npz(draw: st.DrawFn) -> bytes:
    """An archive with odd arrays."""
    shapes = st.lists(st.sampled_from([0, 1, 2, 3, 4, 8]), max_size=5).map(tuple)
    kinds = st.sampled_from(["u1", "u2", "i4", "i8", "f2", "f4", "f8", "c8", "?", "U3", "S2", "M8[s]", ">f4", "V3"])
    names = st.sampled_from(["images", "labels", "test_images", "label_names", "x", "images/labels", "é"])
    arrays = {draw(names): np.zeros(draw(shapes), draw(kinds)) for _ in range(draw(st.integers(0, 3)))}
    base = {"images": np.stack([GREY] * 3), "labels": np.arange(3)} if draw(st.booleans()) else {}
    return archive(**{**base, **arrays})


def broken_json(whole: Any) -> st.SearchStrategy[bytes]:
    """A JSON file with odd values in it."""
    plain = mutated(whole).map(lambda value: json.dumps(value, default=str)[: 10**6].encode())
    return plain | values.map(lambda value: json.dumps(value, default=str)[: 10**5].encode())


@st.composite
def broken_tensors(draw: st.DrawFn, tensors: dict[str, torch.Tensor]) -> bytes:
    """Named tensors of odd names, shapes, types and values, as safetensors or as `torch.save` writes them."""
    held: dict[str, Any] = dict(tensors)
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from([*held, "other", "", "module.0.weight"]))
        like = held.get(name, torch.zeros(3))
        odd = not isinstance(like, torch.Tensor) or like.is_sparse or like.is_complex()
        like = torch.zeros(3) if odd else like
        kind = draw(st.sampled_from(["drop", "dtype", "shape", "nan", "huge", "empty", "zero", "rename", "odd"]))
        if kind == "drop":
            held.pop(name, None)
        elif kind == "dtype":
            types = [torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.bool, torch.uint8, torch.float64]
            held[name] = like.to(draw(st.sampled_from([*types, torch.float8_e4m3fn])))
        elif kind == "shape":
            held[name] = torch.zeros(draw(st.lists(st.integers(0, 4), max_size=4)))
        elif kind in ("nan", "huge", "zero"):
            held[name] = torch.full(like.shape, {"nan": torch.nan, "huge": 3e38, "zero": 0.0}[kind])
        elif kind == "empty":
            held[name] = torch.zeros(0)
        elif kind == "rename":
            held[draw(st.text(max_size=6))] = held.pop(name, like)
        else:
            held[name] = draw(
                st.sampled_from(
                    [1, "a", None, [1], {"a": like}, torch.zeros(2).to_sparse(), torch.zeros(2, dtype=torch.complex64)]
                )
            )
    plain = {
        k: v.contiguous()
        for k, v in held.items()
        if isinstance(v, torch.Tensor) and not v.is_sparse and not v.is_complex()
    }
    return saved(held) if draw(st.booleans()) else safetensors.torch.save(plain)


def member(name: str, content: bytes) -> bytes:
    """A zip archive of one member."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        packed.writestr(name, content)
    return file.getvalue()
