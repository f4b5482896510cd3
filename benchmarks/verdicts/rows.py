"""Sentences and rows of which a share is right: beside a guess, and told from 100 others or not.

`python -m benchmarks.verdicts.rows --out FILE.json`; the others are of the same data; a target is told from them if
strictly more of it is right than of each.
"""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.common.records import conditions, write
from benchmarks.verdicts.packing import packed
from fedspill.core.inputs import TableSpec
from fedspill.core.rng import stream
from fedspill.core.types import Batch
from fedspill.scoring import baselines
from fedspill.scoring.metrics.rows import FEATURE_ACCURACY
from fedspill.scoring.metrics.sentences import ROUGE_L, TOKEN_ACCURACY
from fedspill.scoring.recognition import CELLS, TOKENS, told
from fedspill.zoo.data import DataPool, load

ROOT = os.environ.get("FEDSPILL_DATA", ".data")
GPT2 = f"{ROOT}/text/gpt2_encoder.json,{ROOT}/text/gpt2_vocab.bpe"
TEXT = f"text:{ROOT}/text/wikitext2_test.txt"
SOURCES: dict[str, dict[str, Any]] = {
    "sentences of 32 bytes": {"name": "sentences", "length": 32},
    "WikiText-2, 32 bytes": {"name": TEXT, "length": 32, "indices": "0:2000"},
    "WikiText-2, 32 words (GPT-2)": {"name": TEXT, "length": 32, "indices": "0:1200", "tokenizer": GPT2},
    "Adult": {"name": "adult", "root": ROOT, "indices": "0:4000"},
    "breast_cancer": {"name": "breast_cancer"},
}
SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0)
DISTRACTORS, PUBLIC = 100, 0.4


def rebuilt(x: Tensor, filler: Tensor, seed: int) -> Iterator[tuple[float, Tensor]]:
    """The example with each position or cell its own by a chance, else the filler's."""
    for share in SHARES:
        kept = torch.rand(x.shape, generator=stream(seed, "kept", share)) < share
        yield share, torch.where(kept, x, filler)


def measured(pool: DataPool, target: int, cut: int) -> list[dict[str, Any]]:
    """Of one target: fillers are the guess, and another example; then guesses alone."""
    inputs, spec = pool.batch.inputs, pool.spec
    public, x = Batch(inputs[cut:], pool.batch.labels[cut:]), inputs[target]
    order = [k for k in torch.randperm(cut, generator=stream(target, "others")).tolist() if k != target]
    unlike = [k for k in order if not torch.equal(inputs[k], x)]
    others, more = inputs[unlike[:DISTRACTORS]], inputs[unlike[-64:]]
    rivals = {"told": inputs[unlike[-DISTRACTORS - 64 : -64]], "alone": inputs[:0]}
    if isinstance(spec, TableSpec):
        metrics, margins = [FEATURE_ACCURACY.of(spec)], CELLS
        guess = baselines.commonest_row(spec, 1, public)[0].to(x)
    else:
        metrics, margins = [TOKEN_ACCURACY, ROUGE_L], TOKENS
        guess = baselines.commonest_token(public, 1)[0].to(x)
    first = metrics[0]
    nearest = more[int(first(more, x.expand_as(more)).argmax())]
    made = [("the guess besides", s, v) for s, v in rebuilt(x, guess, target)]
    made += [("another example besides", s, v) for s, v in rebuilt(x, more[0], target)]
    made += [("guess: another example", 0.0, more[1]), ("guess: nearest of 64 others", 0.0, nearest)]
    made += [("guess: the commonest", 0.0, guess)]
    found = list[dict[str, Any]]()
    for kind, share, v in made:
        right = first(v.expand(len(others) + 1, -1), torch.cat([x[None], others]))
        found.append(
            {
                "kind": kind,
                "share": share,
                "recognised": {
                    k: told(first, v, x, r, float(first(guess[None], x[None])), margins) for k, r in rivals.items()
                },
                "identified": bool(right[0] > right[1:].max()),
                **{m.name: round(float(m(v[None], x[None])), 4) for m in metrics},
                "guess": {m.name: round(float(m(guess[None], x[None])), 4) for m in metrics},
            }
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--targets", type=int, default=40, help="of each source; the second half is held out")
    args = parser.parse_args()
    args.device, args.benchmark = "cpu", "verdicts.rows"
    kept = dict[str, Any]()
    for name, keys in SOURCES.items():
        pool = load(**keys)
        cut = round(len(pool) * (1 - PUBLIC))
        for number in range(args.targets):
            target = int(torch.randperm(cut, generator=stream(0, "targets", name))[number])
            kept[f"{name}, {number}"] = measured(pool, target, cut)
        print(name, len(pool), flush=True)
    write(args.out, {"conditions": conditions(args), **packed(kept)})


if __name__ == "__main__":
    main()
