"""Sentences that DAGER reads from one gradient of a GPT-like network, by width, depth, number and length of sentences.

WikiText-2 (test), cut into sentences by GPT-2's byte-pair tokenizer, where FEDSPILL_DATA has `text/wikitext2_test.txt`
and that tokenizer's files; else the embedded text by a tokenizer of 4,096 tokens trained on it. Random weights,
float32, a mean gradient, the number of sentences granted, labels (next tokens) not. Scores are means over the private
sentences, each matched with one that was read. "Certified" counts sentences that the attack vouches for, "false" those
of them that are none of the batch. Seconds are of one thread's processor time, of the attack alone.

    python -m benchmarks.sentences --out benchmarks/results/sentences.md
    python -m benchmarks.sentences --widths 256 --layers 2 --sentences 4 --lengths 16 --noise 1e-3 1e-2 --casts bfloat16
"""

import argparse
import itertools
import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.common.records import told
from fedspill.attacks.dager import CARD
from fedspill.core.errors import NotApplicable
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedSGD, local_update
from fedspill.core.model import Model
from fedspill.core.rng import randn, stream
from fedspill.core.types import Batch, Reconstruction, Update
from fedspill.scoring.match import match
from fedspill.scoring.metrics import by_names
from fedspill.zoo import data, models
from fedspill.zoo.data import DataPool

SCORES = ("rouge_1", "rouge_2", "exact_sentence")
HEADS = ("width", "layers", "sentences", "tokens each", "in all", "update", "batches", "different rows", "ROUGE-1")
MORE_HEADS = ("ROUGE-2", "whole", "certified", "false", "seconds")
TEXT, TOKENIZER = "text/wikitext2_test.txt", "text/gpt2_encoder.json,text/gpt2_vocab.bpe"
HEADS_OF_64 = 64


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
        noise: standard deviation over the root mean square of the update's values.
        cast: dtype that the update's values were rounded to, or "" for none.
    """

    width: int
    layers: int
    sentences: int
    length: int
    noise: float = 0.0
    cast: str = ""

    @property
    def update(self) -> str:
        """What became of the update on its way."""
        return self.cast or (f"noise {self.noise:g}" if self.noise else "as it is")


@dataclass(frozen=True)
class Row:
    """One batch; scores are summed over its sentences."""

    scores: tuple[float, ...]
    rows: int
    certified: int
    false: int
    seconds: float
    refused: str = ""


def pool(length: int) -> DataPool:
    """The sentences."""
    root = os.environ.get("FEDSPILL_DATA")
    if root is not None and (Path(root) / TEXT).is_file():
        return data.load(f"text:{TEXT}", root=root, length=length, tokenizer=TOKENIZER)
    return data.load("sentences", length=length, tokenizer="bpe:4096")


def network(case: Case, private: DataPool) -> Model:
    """Untrained, with heads of 64 numbers as GPT-2 has them."""
    spec = private.spec
    options = {"width": case.width, "layers": case.layers, "heads": case.width // HEADS_OF_64}
    vocabulary = private.num_classes
    return models.build("gpt", input_shape=(case.length,), num_classes=vocabulary, spec=spec, options=options)


def sent(case: Case, model: Model, batch: Batch, seed: int) -> Update:
    """The gradient, rounded or noised."""
    update = local_update(model, batch, FedSGD())
    if case.cast:
        return Update(update.kind, {k: v.to(getattr(torch, case.cast)) for k, v in update.values.items()})
    if not case.noise:
        return update
    count = sum(v.numel() for v in update.values.values())
    size, rng = case.noise * update.norm() / count**0.5, stream(seed, "noise")
    return Update(update.kind, {k: v + size * randn(tuple(v.shape), rng, v) for k, v in update.values.items()})


def measured(case: Case, model: Model, batch: Batch, seed: int) -> Row:
    """What the attack makes of one batch."""
    update = sent(case, model, batch, seed)
    began = time.process_time()
    try:
        got = CARD.presets["paper"].reconstruct(
            update, ServerKnowledge(model, num_examples=len(batch)), stream(seed, "attack")
        )
    except NotApplicable as reason:
        return Row((0.0,) * len(SCORES), 0, 0, 0, time.process_time() - began, str(reason))
    return scored(batch.inputs, got, time.process_time() - began)


def scored(private: Tensor, got: Reconstruction, seconds: float) -> Row:
    """Scores of matched pairs; a sentence without one has 0."""
    rebuilt, held = match(got.inputs, private)
    pairs = got.inputs[rebuilt], private[held]
    scores = tuple(float(metric(*pairs).sum()) if len(held) else 0.0 for metric in by_names(SCORES))
    sure = [tuple(s) for s, mark in zip(got.inputs.tolist(), got.marks, strict=True) if mark == "alone"]
    true = set(map(tuple, private.tolist()))
    said = got.notes[0].split(" independent")[0].rsplit(" ", 1)[-1]
    return Row(scores, int(said), len(sure), sum(s not in true for s in sure), seconds)


def batches(private: DataPool, size: int, count: int) -> Iterator[Batch]:
    """Disjoint random batches."""
    order = torch.randperm(len(private.batch), generator=stream(0, "sentences", size))
    for part in order[: size * count].split(size):
        yield private.batch[part]


def line(case: Case, rows: Sequence[Row]) -> str:
    """One row of the table."""
    total = case.sentences * len(rows)
    scores = [f"{sum(r.scores[k] for r in rows) / total:.3f}" for k in range(len(SCORES))]
    refused = sum(bool(r.refused) for r in rows)
    read = [r for r in rows if not r.refused]
    different = f"{min(r.rows for r in read)} to {max(r.rows for r in read)}" if read else "-"
    columns = [
        *(str(v) for v in (case.width, case.layers, case.sentences, case.length, case.sentences * case.length)),
        case.update,
        f"{len(rows)}" + (f", {refused} refused" if refused else ""),
        different,
        *scores[:2],
        scores[2],
        f"{sum(r.certified for r in rows)} of {total}",
        str(sum(r.false for r in rows)),
        f"{sum(r.seconds for r in rows) / len(rows):.1f}",
    ]
    return "| " + " | ".join(columns) + " |"


def parse() -> argparse.Namespace:
    """Arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", nargs="+", type=int, default=[256, 768])
    parser.add_argument("--layers", nargs="+", type=int, default=[2, 6])
    parser.add_argument("--sentences", nargs="+", type=int, default=[1, 4, 16])
    parser.add_argument("--lengths", nargs="+", type=int, default=[16, 32])
    parser.add_argument("--batches", type=int, default=5)
    parser.add_argument("--noise", nargs="*", type=float, default=[], help="relative to the update's root mean square")
    parser.add_argument("--casts", nargs="*", default=[], choices=["bfloat16", "float16"])
    parser.add_argument("--out", type=Path, help="a file that the table is added to; else it is printed")
    return parser.parse_args()


def cases(args: argparse.Namespace) -> Iterator[Case]:
    """All rows of the table."""
    for shape in itertools.product(args.widths, args.layers, args.sentences, args.lengths):
        plain = Case(*shape)
        if not args.noise and not args.casts:
            yield plain
        yield from (Case(*shape, noise=noise) for noise in args.noise)
        yield from (Case(*shape, cast=cast) for cast in args.casts)


def main() -> None:
    """Writes the table, a row as soon as it is measured."""
    args = parse()
    torch.set_num_threads(1)

    def say(words: str) -> None:
        if args.out is None:
            print(words, flush=True)
        else:
            with args.out.open("a", encoding="utf-8") as file:
                file.write(words + "\n")

    source = pool(args.lengths[0])
    command = told(sys.argv[1:])
    say(f"`python -m benchmarks.sentences {command}`, torch {torch.__version__}, one thread of a shared machine;")
    say(f"text: {source.source}, vocabulary {source.num_classes}.\n")
    heads = [*HEADS, *MORE_HEADS]
    say("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    for case in cases(args):
        private = pool(case.length)
        model = network(case, private)
        found = batches(private, case.sentences, args.batches)
        rows = [measured(case, model, batch, seed) for seed, batch in enumerate(found)]
        say(line(case, rows))
        for reason in sorted({r.refused for r in rows} - {""}):
            print(shlex.quote(reason), file=sys.stderr)
    say("")


if __name__ == "__main__":
    main()
