"""Files of data that are broken, or hold what no network could take: one line each, whatever the reader trips over."""

import base64
import io
import json
import zipfile

import numpy as np
import pytest

from fedspill.core.errors import BadInput
from fedspill.zoo.data import load

WORDS = {
    "version": "1.0",
    "added_tokens": [],
    "pre_tokenizer": {"type": "Whitespace"},
    "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1}, "unk_token": "a"},
}


def refused(name: str, said: str, **more) -> None:
    with pytest.raises(BadInput, match=said) as error:
        load(name, **more)
    assert len(str(error.value).splitlines()) == 1


# --- tables


@pytest.mark.parametrize("cell", ["1e999999", "-1e999999", "1e39", "9" * 5000])
def test_a_number_that_no_float_holds_is_named(tmp_path, cell):
    (tmp_path / "t.csv").write_text(f"a,b,c\n1,2,x\n{cell},3,y\n")
    refused(f"csv:{tmp_path / 't.csv'}", rf"column 'a' holds '{cell[:60]}'; numbers up to 3\.4e\+38 are needed")


@pytest.mark.parametrize("cell", ["1e-999999", "1e-99999999999999999999", "1e-40", "0." + "1" * 5000])
def test_a_number_that_is_almost_nothing_is_read(tmp_path, cell):
    (tmp_path / "t.csv").write_text(f"a,b,c\n1,2,x\n{cell},3,y\n0,4,y\n")
    pool = load(f"csv:{tmp_path / 't.csv'}")
    assert pool.batch.inputs[1, 0] == pytest.approx(float(cell), abs=1e-7)
    assert pool.spec.encode(pool.batch.inputs).isfinite().all()


def test_a_table_of_tiny_numbers_is_encoded_in_finite_ones(tmp_path):
    (tmp_path / "t.csv").write_text("a,c\n1e-41,x\n3e-41,y\n0,y\n")
    assert load(spec := f"csv:{tmp_path / 't.csv'}").spec.encode(load(spec).batch.inputs).isfinite().all()


@pytest.mark.parametrize("content", [b"", b"\n\n", b"a,b\n", b"a,b\n1\n", b"a,a\n1,2\n", b"a,b\n\xff,1\n"])
def test_what_is_no_table(tmp_path, content):
    (tmp_path / "t.csv").write_bytes(content)
    refused(f"csv:{tmp_path / 't.csv'}", "table ")


# --- archives


def archive(path, **arrays):
    np.savez_compressed(path, **arrays)
    return path.read_bytes()


IMAGES = np.zeros((3, 4, 4), np.uint8)


def test_broken_archives(tmp_path):
    whole = archive(tmp_path / "whole.npz", images=IMAGES, labels=np.arange(3))
    broken = {f"cut at {k}": whole[:k] for k in (0, 1, 30, 100, len(whole) - 5)}
    broken |= {f"bit {k}": whole[:k] + bytes([whole[k] ^ 255]) + whole[k + 1 :] for k in range(0, 200, 7)}
    for name, content in broken.items():
        (tmp_path / "b.npz").write_bytes(content)
        try:
            load(f"npz:{tmp_path / 'b.npz'}")
        except BadInput as error:
            assert len(str(error).splitlines()) == 1, name


def member(content: bytes, name: str = "images.npy", **more) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", **more) as packed:
        packed.writestr(name, content)
    return file.getvalue()


def header(text: str) -> bytes:
    return b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text.encode()


def encrypted() -> bytes:
    content = bytearray(member(b"nothing"))
    for mark, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(mark) + place] |= 1
    return bytes(content)


ARCHIVES = {
    "no archive": b"images",
    "encrypted": encrypted(),
    "a member that is no array": member(b"some text"),
    "an unknown compression": member(b"x" * 40).replace(b"\x14\0\0\0\0\0", b"\x14\0\0\0\x63\0"),
    "bzip2": member(b"x" * 40, compression=zipfile.ZIP_BZIP2),
    "a header that is no dictionary": member(header("[1, 2]\n")),
    "a header of an enormous array": member(
        header("{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000000, 4, 4)}\n")
    ),
    "a header that overflows": member(
        header("{'descr': '|u1', 'fortran_order': False, 'shape': (99999999999999999999999, 4, 4)}\n")
    ),
    "a header that nests": member(header("(" * 5000 + ")" * 5000 + "\n")),
    "objects": member(header("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}\n") + b"cos\nsystem\n."),
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_odd_archives(tmp_path, case):
    (tmp_path / "b.npz").write_bytes(ARCHIVES[case])
    refused(f"npz:{tmp_path / 'b.npz'}", "is no .npz archive of plain arrays")


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"images": IMAGES, "labels": np.array([0, 1, 2**40])}, "one class number from 0, below 2097152"),
        ({"images": IMAGES, "labels": np.array([0, 1, 2**63], np.uint64)}, "one class number from 0"),
        ({"images": IMAGES, "labels": np.array(3)}, "labels have shape"),
        ({"images": IMAGES[:, :0]}, "without a pixel"),
        ({"images": IMAGES[:0]}, "name no example of 0"),
        ({"images": IMAGES.astype(np.complex64)}, "images of type complex64"),
        ({"images": IMAGES.astype("datetime64[s]")}, "images of type datetime64"),
        ({"images": np.array(3)}, "images have shape"),
        ({"images": IMAGES.astype(np.float32) - 1}, "normalising is the model's"),
        ({"images": np.full((3, 4, 4), np.inf, np.float32)}, "NaN or infinite"),
    ],
)
def test_arrays_that_are_no_pool(tmp_path, arrays, said):
    archive(tmp_path / "b.npz", **arrays)
    refused(f"npz:{tmp_path / 'b.npz'}", said)


# --- tokenizers


def words(**changes) -> dict:
    return WORDS | changes


def model(**changes) -> dict:
    return {"model": WORDS["model"] | changes}


def charsmap(content: bytes) -> dict:
    return {"normalizer": {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(content).decode()}}


TOKENIZERS = {
    "an empty vocabulary": (model(vocab={}), "token numbers below 0|Missing .UNK. token"),
    "a huge number": (model(vocab={"a": 2**32 - 1}), "token numbers below 4294967296; from 1 to 2097152"),
    "no unknown token": (model(unk_token="z"), "cannot encode this text: WordLevel error: Missing"),
    "a normaliser that panics when read": (charsmap(b"\xff" * 8), "cannot be read: Precompiled"),
    "a normaliser that panics when used": (charsmap(b"\0" * 4), "cannot encode this text: index out of bounds"),
    "pieces of no length": ({"pre_tokenizer": {"type": "FixedLength", "length": 0}}, "chunk size must be non-zero"),
    "a pattern that is none": (
        {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a"}, "behavior": "Removed", "invert": False}},
        "unmatched parenthesis|cannot be read",
    ),
}


@pytest.mark.parametrize("case", TOKENIZERS)
def test_broken_tokenizers(tmp_path, case):
    pytest.importorskip("tokenizers")
    changes, said = TOKENIZERS[case]
    (tmp_path / "t.json").write_text(json.dumps(words(**changes)))
    (tmp_path / "t.txt").write_text("a b c a b c")
    refused(f"text:{tmp_path / 't.txt'}", said, length=2, tokenizer=str(tmp_path / "t.json"))


def test_a_library_that_aborts_ends_its_own_process_only(tmp_path, monkeypatch):
    pytest.importorskip("tokenizers")
    from fedspill.zoo.data.sources import tokenizer

    (tmp_path / "t.json").write_text(json.dumps(words()))
    monkeypatch.setattr(tokenizer, "CHILD", "import os; os.abort()")
    refused("sentences", r"nothing was said \(the library was ended by signal 6\)", tokenizer=str(tmp_path / "t.json"))


# --- places


@pytest.mark.parametrize("name", ["folder:a\0b", "npz:a\0b", "csv:a\0b", "text:a\0b", "npz:~no-such-person/x.npz"])
def test_a_path_that_cannot_be_one(name):
    refused(name, "null byte|home directory")
