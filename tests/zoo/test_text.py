"""Sentences: sources, tokenizers, what a scenario makes of them."""

import importlib
import os
from pathlib import Path

import pytest
import torch

from fedspill.auditing import parse_plan
from fedspill.auditing.resolving.scenario import prepare
from fedspill.core.errors import BadInput
from fedspill.core.inputs import TokenSpec
from fedspill.core.rng import stream
from fedspill.zoo.data import from_tokens, load, shared_examples
from fedspill.zoo.data.sources.tokenizer import open_tokenizer

CPU = torch.device("cpu")
TRICKY = "Tab\tand  two spaces, Ærøskøbing, 東京 🦞\n = no title\n"


def scenario(table: dict, **more):
    return prepare(parse_plan(table), CPU, **more)


# --- sources


@pytest.mark.parametrize("split", ["private", "public"])
def test_labels_are_the_next_tokens(split: str) -> None:
    pool = load("sentences", split=split, length=24)
    inputs, labels = pool.batch.inputs, pool.batch.labels
    assert pool.spec == TokenSpec(24, 256)
    assert pool.input_shape == (24,)
    assert inputs.dtype == labels.dtype == torch.long
    assert torch.equal(labels.flatten()[:-1], inputs.flatten()[1:])
    assert len(pool) > 300
    assert pool.num_classes == 256


def test_every_description_is_on_one_side() -> None:
    sources = [load("sentences", split=s, indices="0:1").source for s in ("private", "public")]
    named = [set(s.split("(")[1].split(")")[0].split(", ")) for s in sources]
    assert not named[0] & named[1]
    assert {"iris", "digits"} <= named[0] | named[1]


def test_a_text_file_without_its_titles(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text(
        " \n = Title = \n \n One = two , we say .\n = = Part = = \nÆon .\n", encoding="utf-8"
    )
    pool = load(f"text:{tmp_path / 't.txt'}", length=4)
    expected = " One = two , we say .\nÆon ."
    text = bytes(pool.batch.inputs.flatten().tolist()).decode()
    assert expected.startswith(text)
    assert len(pool) == (len(expected.encode()) - 1) // 4
    assert pool.show is not None
    lines = pool.show(pool.batch.inputs)
    assert lines[0] == " One"
    assert "".join(lines).replace("↵", "\n") == text


def test_half_a_character_is_shown_as_such(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("aÆb", encoding="utf-8")
    pool = load(f"text:{tmp_path / 't.txt'}", length=2)
    assert pool.show is not None
    assert pool.show(pool.batch.inputs) == ["a\N{REPLACEMENT CHARACTER}"]


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("sentences", {"size": 8}, "data 'sentences' takes no 'size'; it takes length, tokenizer"),
        ("photos", {"length": 8}, "data 'photos' takes no 'length'; it takes size"),
        ("wine", {"tokenizer": "bytes"}, "data 'wine' takes no 'tokenizer'; it takes none of"),
        ("csv:x.csv", {"length": 3}, "data 'csv:x.csv' takes no 'length'; it takes label"),
        ("sentences", {"length": 0}, "length=0: at least 1 token"),
        ("sentences", {"length": 10**6}, "holds [0-9]+ tokens; length=1000000 needs at least 1000001"),
        ("sentences", {"split": "test"}, "has no split 'test'; it has private, public"),
        ("text:nowhere.txt", {}, "nowhere.txt' cannot be read as UTF-8"),
        ("text:", {}, "unknown data 'text:'"),
        ("text:PATH", {}, "unknown data 'text:PATH'"),
        ("sentences", {"tokenizer": "nowhere"}, "tokenizer 'nowhere': '.*nowhere' is no file; it must be \"bytes\""),
        ("sentences", {"tokenizer": "a,b,c"}, "tokenizer 'a,b,c' names 3 files"),
    ],
)
def test_what_a_source_does_not_take(name: str, given: dict, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        load(name, **given)


# --- tokenizers


def test_bytes_there_and_back() -> None:
    tokenizer = open_tokenizer("bytes", None)
    assert tokenizer.decode(tokenizer.encode(TRICKY)) == TRICKY
    assert tokenizer.encode("az") == [97, 122]


def test_a_tokenizer_that_is_trained_on_the_embedded_text() -> None:
    pytest.importorskip("tokenizers")
    tokenizer = open_tokenizer("bpe:600", None)
    assert tokenizer.vocabulary == 600
    assert tokenizer.decode(tokenizer.encode(TRICKY)) == TRICKY
    words = "the data set of the examples"
    tokens = tokenizer.encode(words)
    assert len(tokens) < len(words) / 2
    assert open_tokenizer("bpe:600", None).encode(words) == tokens
    private, public = (load("sentences", split=s, tokenizer="bpe:600", length=8) for s in ("private", "public"))
    assert private.spec == public.spec == TokenSpec(8, 600)


@pytest.mark.parametrize("size", ["", "256", "65537", "many", "-3", "3e3"])
def test_a_trained_tokenizer_has_a_size(size: str) -> None:
    with pytest.raises(BadInput, match=r"is no number from 257 to 65536; it must be \"bytes\", \"bpe:N\""):
        open_tokenizer(f"bpe:{size}", None)


@pytest.fixture
def bpe(tmp_path: Path) -> Path:
    """A byte-level BPE with three merges, in both layouts."""
    library = pytest.importorskip("tokenizers")
    pytest.importorskip("tokenizers.pre_tokenizers")
    alphabet = sorted(library.pre_tokenizers.ByteLevel.alphabet())
    merges = [("l", "o"), ("lo", "w"), ("Ġ", "low")]
    words = [*alphabet, *("".join(pair) for pair in merges)]
    model = library.models.BPE(vocab={w: k for k, w in enumerate(words)}, merges=merges)
    made = library.Tokenizer(model)
    made.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = library.decoders.ByteLevel()
    for place in ("pair", "whole"):
        (tmp_path / place).mkdir()
    model.save(str(tmp_path / "pair"))
    made.enable_truncation(2)  # must not cut a text short
    made.save(str(tmp_path / "whole" / "tokenizer.json"))
    return tmp_path


@pytest.mark.parametrize("form", ["pair", "whole", "whole/tokenizer.json", "pair/vocab.json,pair/merges.txt"])
def test_a_tokenizer_of_files(bpe: Path, form: str) -> None:
    tokenizer = open_tokenizer(form, bpe)
    assert tokenizer.vocabulary == 259
    assert tokenizer.decode(tokenizer.encode(TRICKY)) == TRICKY
    low, space_low = tokenizer.encode("low low")
    assert (low, space_low) == (257, 258)
    spelled = [tokenizer.encode(c)[0] for c in "er"]
    assert tokenizer.encode("lower") == [257, *spelled]
    pool = load("sentences", tokenizer=form, root=bpe, length=16)
    assert pool.spec == TokenSpec(16, 259)


def test_a_broken_tokenizer(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    (tmp_path / "t.json").write_text("{}")
    with pytest.raises(BadInput, match="cannot be read: .*it must be"):
        open_tokenizer(str(tmp_path / "t.json"), None)


def test_without_the_package_the_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.json").write_text("{}")

    def absent(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(BadInput, match=r"pip install 'fedspill\[text\]', or use tokenizer = \"bytes\""):
        open_tokenizer(str(tmp_path / "t.json"), None)


@pytest.mark.skipif("FEDSPILL_DATA" not in os.environ, reason="FEDSPILL_DATA names no folder with text/")
def test_wikitext_by_gpt2() -> None:
    pytest.importorskip("tokenizers")
    files = "text/gpt2_encoder.json,text/gpt2_vocab.bpe"
    tokenizer = open_tokenizer(files, None)
    assert tokenizer.encode("Hello world") == [15496, 995]  # as every GPT-2 tutorial shows
    pool = load("text:text/wikitext2_valid.txt", tokenizer=files, indices="0:200")
    assert pool.spec == TokenSpec(32, 50257)
    text = tokenizer.decode(pool.batch.inputs.flatten().tolist())
    raw = (Path(os.environ["FEDSPILL_DATA"]) / "text/wikitext2_valid.txt").read_text(encoding="utf-8")
    bare = [line for line in raw.split("\n") if line.strip() and not line.startswith(" = ")]
    assert "\n".join(bare).startswith(text)


# --- the caller's own


def test_sentences_of_the_caller() -> None:
    tokens = torch.randint(9, (5, 7), generator=stream(0, "test"))
    pool = from_tokens(tokens, vocabulary=9)
    assert torch.equal(pool.batch.inputs, tokens[:, :-1])
    assert torch.equal(pool.batch.labels, tokens[:, 1:])
    assert (pool.spec, pool.num_classes, pool.has_labels) == (TokenSpec(6, 9), 9, True)
    assert pool.show is not None
    assert pool.show(pool.batch.inputs[:1]) == [" ".join(map(str, tokens[0, :-1].tolist()))]
    classes = from_tokens(tokens, torch.tensor([0, 1, 2, 0, 1]), vocabulary=9, class_names=("a", "b", "c"))
    assert (classes.num_classes, classes.batch.labels.shape, classes.spec) == (3, (5,), TokenSpec(7, 9))


@pytest.mark.parametrize(
    ("tokens", "labels", "said"),
    [
        (torch.zeros(2, 3), None, "whole numbers"),
        (torch.full((2, 3), 9), None, "below vocabulary=9"),
        (torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 2, dtype=torch.long), "both must agree"),
        (torch.zeros(2, 1, dtype=torch.long), None, "leave no sentence"),
        (torch.zeros(3, dtype=torch.long), None, r"\(n, t\)"),
    ],
)
def test_what_are_no_sentences(tokens: torch.Tensor, labels: torch.Tensor | None, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        from_tokens(tokens, labels, vocabulary=9)


def test_token_numbers_are_not_compared_as_pixels() -> None:
    one, other = (from_tokens(torch.full((1, 4), k), vocabulary=400) for k in (3, 259))  # equal to 8 bits
    assert shared_examples(one, other) == []
    assert shared_examples(one, one) == [0]
