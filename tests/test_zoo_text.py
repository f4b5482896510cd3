"""Sentences: sources, tokenizers, what a scenario makes of them."""

import importlib
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from fedspill.audit import parse_plan, run_audit
from fedspill.audit.scenario import prepare
from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.inputs import TokenSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_update import FedSGD, local_update
from fedspill.core.rng import stream
from fedspill.tamperings.robbing_the_fed import RobbingTheFed
from fedspill.zoo.cut import cut
from fedspill.zoo.data import from_tensors, from_tokens, load, shared_examples
from fedspill.zoo.models import build
from fedspill.zoo.sources.tokenizer import open_tokenizer

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


# --- scenarios


def test_sentences_get_a_transformer_and_an_update() -> None:
    found = scenario(
        {"data": {"name": "sentences", "length": 12}, "client": {"num_examples": 3}, "model": {"width": 16}}
    )
    assert found.network == "transformer"
    assert found.model.input == TokenSpec(12, 256)
    assert local_update(found.model, found.private(0), FedSGD()).norm() > 0
    assert found.key(redact=False) == found.key(redact=False)


def test_public_sentences_are_cut_as_the_private_ones() -> None:
    table = {
        "data": {"name": "sentences", "length": 12},
        "server": {"public": {"name": "sentences", "split": "public"}},
    }
    found = scenario(table)
    assert found.public is not None
    assert found.public.spec == found.pool.spec
    table["server"]["public"]["length"] = 13
    with pytest.raises(
        BadInput, match="public examples are sentences of 13 tokens out of 256, private ones sentences of 12"
    ):
        scenario(table)
    table["server"]["public"] = {"name": "photos"}
    with pytest.raises(BadInput, match="public examples are images of shape"):
        scenario(table)


def test_public_sentences_hold_no_private_one(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("abab" + "cdab" + "abab" + "efgh" + "x")
    name = f"text:{tmp_path / 't.txt'}"
    table = {
        "data": {"name": name, "length": 4, "indices": "0:1"},
        "server": {"public": {"name": name, "indices": "1:4"}},
    }
    public = scenario(table).public
    assert public is not None
    assert public.indices == (1, 3)
    assert "without 1 that equal private ones" in public.source
    table["server"]["public"]["indices"] = "2"
    with pytest.raises(BadInput, match="all 1 public examples equal private ones"):
        scenario(table)
    table["server"]["public"]["indices"] = "0:2"
    with pytest.raises(BadInput, match="1 examples are both public and private"):
        scenario(table)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"model": {"name": "lenet"}}, "model 'lenet' takes images, not sentences; transformer would"),
        ({"model": {"name": "mlp"}}, "model 'mlp' takes images and table rows, not sentences"),
        ({"model": {"name": "timm:resnet18"}}, "'timm:resnet18' takes images, not sentences"),
        ({"model": {"normalise": False}}, "option normalise is of images; sentences bring their own"),
        ({"model": {"num_classes": 5}}, "predicts next tokens of a vocabulary of 256; 5 classes were got"),
        ({"client": {"distinct_labels": True}}, "distinct_labels needs one class per example; .* next tokens"),
    ],
)
def test_what_does_not_fit_sentences(table: dict, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        scenario({"data": {"name": "sentences", "length": 8}, **table})


def test_images_are_no_sentences() -> None:
    with pytest.raises(BadInput, match="model 'transformer' takes sentences, not images"):
        scenario({"model": {"name": "transformer"}})


def test_a_module_that_classifies_is_no_language_model() -> None:
    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(9, 4)
            self.head = nn.Linear(4, 3)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.head(self.embedding(tokens).mean(1))

    tokens = torch.randint(9, (4, 5), generator=stream(0, "test"))
    classes = from_tokens(tokens, torch.arange(4) % 3, vocabulary=9)
    with torch.random.fork_rng():
        bag = Bag()
    report = run_audit(parse_plan({}), model=bag, data=classes, device="cpu").report
    assert all(t.skipped for t in report.trials)
    with pytest.raises(BadInput, match="next tokens want logits at every token"):
        run_audit(parse_plan({}), model=bag, data=from_tokens(tokens, vocabulary=9), device="cpu")


def test_a_callers_model_must_take_what_the_data_are() -> None:
    pool = from_tokens(torch.randint(9, (4, 5), generator=stream(0, "test")), vocabulary=9)
    other = build("transformer", input_shape=(4,), num_classes=10, spec=TokenSpec(4, 10), options={"width": 8})
    with pytest.raises(BadInput, match="takes sentences of another encoding than the data's"):
        scenario({}, model=other, pool=pool)
    with pytest.raises(BadInput, match="the model takes sentences, the data are images"):
        scenario({}, model=other, pool=from_tensors(torch.rand(2, 1, 4, 4, generator=stream(0, "test"))))


def test_cuts_take_sentences_in_their_order() -> None:
    pool = load("sentences", length=8, indices="0:7")
    assert cut(pool, 3) == [[0, 1, 2], [3, 4, 5]]


def test_attacks_on_images_are_skipped_by_standard_and_refused_by_name() -> None:
    table = {"data": {"name": "sentences", "length": 8, "indices": "0:1"}, "model": {"width": 8}}
    report = run_audit(parse_plan(table), device="cpu").report
    said = {t.attack: t.skipped or "" for t in report.trials}
    assert {"dlg", "inverting_gradients"} <= set(said)
    assert "works on images; the data are sentences" in said["dlg"]
    assert report.verdict.exit_code == 3
    with pytest.raises(NotApplicable, match="'dlg:paper' does not apply: it works on images; the data are sentences"):
        run_audit(parse_plan({**table, "audit": {"attacks": ["dlg"]}}), device="cpu")
    with pytest.raises(NotApplicable, match="'label_flip:paper' does not apply"):
        run_audit(parse_plan({**table, "server": {"tampering": "label_flip"}}), device="cpu")


def test_robbing_the_fed_reads_sentences_word_for_word() -> None:
    found = scenario(
        {
            "data": {"name": "sentences", "length": 16},
            "client": {"num_examples": 8},
            "model": {"width": 16, "hidden": 32, "layers": 1},
            "server": {"public": {"name": "sentences", "split": "public"}},
        }
    )
    private, robber = found.private(0), RobbingTheFed(rows=512, functions=("random",), cutoffs="auto")
    tampered = robber.tamper(found.model, found.public_batch, 0, stream(0, "server"))
    update = local_update(tampered.model, private, FedSGD())
    knowledge = ServerKnowledge(tampered.model, num_examples=8, labels=private.labels)
    rebuilt = tampered.readout.reconstruct(update, knowledge, stream(0, "attack"))
    held = set(map(tuple, private.inputs.tolist()))
    assert len(held & set(map(tuple, rebuilt.inputs.tolist()))) >= 6
