"""Robbing the Fed on sentences and table rows, with real gradients in float32.

    python -m benchmarks.imprint.records text     # WikiText-2, 5 batches of 128 sentences of 32 GPT-2 tokens, 512 rows
    python -m benchmarks.imprint.records tables   # UCI Adult, 20 batches of 256 rows, 512 rows of the module

The data lie under FEDSPILL_DATA (text/, tabular/). Prints markdown.
"""

import argparse

import torch
from torch import Tensor

from benchmarks.imprint.run import mean_and_error
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedSGD, local_update
from fedspill.core.model import Model
from fedspill.core.rng import stream
from fedspill.core.settings import with_fields
from fedspill.core.types import Batch
from fedspill.inversion.imprint.making import Bins
from fedspill.inversion.theory.occupancy import alone_expected
from fedspill.scoring.match import match
from fedspill.scoring.metrics import by_names
from fedspill.tamperings.robbing_the_fed import RobbingTheFed
from fedspill.zoo.data import load
from fedspill.zoo.models import build

GPT2 = "text/gpt2_encoder.json,text/gpt2_vocab.bpe"


def scores(
    tampering: RobbingTheFed, model: Model, private: Batch, public: Batch, seed: int, names: tuple[str, ...]
) -> list[float]:
    """Means over all private examples of some metrics (0 where nothing was matched), and how many h predicts."""
    tampered = tampering.tamper(model, public, 0, stream(seed, "server"))
    assert tampered.readout is not None
    update = local_update(tampered.model, private, FedSGD())
    known = ServerKnowledge(tampered.model, num_examples=len(private))
    found = tampered.readout.reconstruct(update, known, stream(seed, "attack"))
    kept = found.confidence.argsort(descending=True, stable=True)[: len(private)]
    table = None if private.inputs.dtype == torch.long else model.input
    mine, theirs = match(found.inputs[kept], private.inputs, table=table)
    pairs = found.inputs[kept][mine], private.inputs[theirs]
    values = [float(m(*pairs).sum()) / len(private) for m in by_names(names, table=table)]
    z = model.input.encode(private.inputs)
    return [*values, float(tampered.readout.predict(tampered.model, z).recoverable.double().mean())]


def table_of(title: str, names: tuple[str, ...], rows: dict[str, list[list[float]]], n: int) -> None:
    """Prints means and standard errors over batches."""
    print(f"| {title} | batches | " + " | ".join(names) + " | predicted by h |\n|---|---|" + "---|" * (len(names) + 1))
    for name, values in rows.items():
        columns = [
            [n * v if k in ("exact_sentence", "exact_row", "h") else v for v in c]
            for k, c in zip((*names, "h"), zip(*values, strict=True), strict=True)
        ]
        print(f"| {name} | {len(values)} | " + " | ".join(mean_and_error(list(c)) for c in columns) + " |")


VARIANTS = {
    "plain bins": {"functions": ("random",)},
    "plain, sparse rows": {"functions": ("random",), "activation": "hardtanh"},
    "peeling, d = 3": {"functions": ("random",) * 3, "decode": "peel"},
    "peeling, d = 3, sparse rows": {"functions": ("random",) * 3, "decode": "peel", "activation": "hardtanh"},
}


PLAIN = RobbingTheFed(Bins(512, cutoffs="auto"))


def text() -> None:
    """The transformer of the federated literature; private sentences of the test part, public of the valid part."""
    n, names = 128, ("exact_sentence", "token_accuracy", "bleu", "rouge_l")
    private = load("text:text/wikitext2_test.txt", length=32, tokenizer=GPT2)
    public = load("text:text/wikitext2_valid.txt", length=32, tokenizer=GPT2, indices="0:4000").batch
    model = build("transformer", input_shape=(32,), num_classes=50257, spec=private.spec)
    print(f"Ideal: {alone_expected(n, torch.full((512,), 1 / 512)):.1f} of {n}.\n")
    drawn = _drawn(len(private), n, 5)
    rows = {
        name: [
            scores(with_fields(PLAIN, **fields), model, private.batch[part], public, b, names)
            for b, part in enumerate(drawn)
        ]
        for name, fields in VARIANTS.items()
        if "sparse" not in name
    }
    table_of("decoder", names, rows, n)


def tables() -> None:
    """A fully connected network; private rows from the test part, public ones from the training part."""
    n, names = 256, ("exact_row", "feature_accuracy")
    private, public = load("adult", split="test"), load("adult", split="train", indices="0:10000").batch
    model = build("mlp", input_shape=private.spec.encoded_shape, num_classes=2, spec=private.spec)
    ideal = alone_expected(n, torch.full((512,), 1 / 512))
    print(f"Ideal: {ideal:.1f} of {n} ({ideal / n:.1%}).\n")
    rows = {
        name: [
            scores(with_fields(PLAIN, **fields), model, private.batch[part], public, b, names)
            for b, part in enumerate(_drawn(len(private), n, 20))
        ]
        for name, fields in VARIANTS.items()
    }
    table_of("decoder", names, rows, n)


def _drawn(total: int, n: int, batches: int) -> list[Tensor]:
    order = torch.randperm(total, generator=stream(0, "records"))
    return [order[n * b : n * b + n] for b in range(batches)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row", choices=("text", "tables"))
    {"text": text, "tables": tables}[parser.parse_args().row]()
