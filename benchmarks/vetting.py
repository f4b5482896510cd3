"""Whom `fedspill vet` warns of: honest networks however initialised and stored, and what the catalogue plants.

    python -m benchmarks.vetting --out benchmarks/results/vetting.json
    python -m benchmarks.vetting --table benchmarks/results/vetting.json

FEDSPILL_DATA holds the option-A ResNets of CIFAR-10; without it they are left out. The checks' levels were chosen while
looking at such networks, so this is no held-out estimate. No agreed architecture and no round before are given, except
where said. An alarm is a finding of severity 0.5 or more. Prints Markdown.
"""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fedspill import catalogue
from fedspill.core.errors import FedspillError
from fedspill.core.model import Model
from fedspill.core.rng import rand, randn, seeded_globals, stream
from fedspill.core.roles import Incoming
from fedspill.core.tensor_files import write_whole
from fedspill.tamperings.robbing_linear_layer import RobbingLinearLayer
from fedspill.vetting.inspection import inspected
from fedspill.vetting.policy import STANDARD
from fedspill.zoo.models import build

NETWORKS = ("lenet", "cnn", "convnet", "mlp", "resnet20", "shufflenet_v2")
SHIPPED = (("lenet", "trained"), ("convnet", "trained"), ("cnn", "trained"), ("cnn", "robust"))
CHECKPOINTS = ("resnet20", "resnet32", "resnet44", "resnet56")
PLANTED_IN = ("cnn", "mlp")
ALARM, SEEDS = STANDARD.fail_from, 2
SCHEMES: dict[str, Callable[[Tensor], object]] = {
    "kaiming_normal": nn.init.kaiming_normal_,
    "xavier_uniform": nn.init.xavier_uniform_,
    "orthogonal": nn.init.orthogonal_,
    "truncated_normal": lambda w: nn.init.trunc_normal_(w, std=0.02),
}


def rounded(rows: Tensor) -> Tensor:
    """To 8 bits by the largest number of each row, or of a vector."""
    step = (rows.abs().amax(1, keepdim=True) if rows.ndim > 1 else rows.abs().amax()).clamp_min(1e-30) / 127
    return (rows / step).round() * step


def by_row(value: Tensor) -> Tensor:
    return rounded(value.flatten(1)).view_as(value) if value.ndim > 1 else value


def thinned(value: Tensor, share: float) -> Tensor:
    if value.ndim < 2:
        return value
    return value * (value.abs() > value.abs().flatten().kthvalue(max(1, int(share * value.numel()))).values)


STORED: dict[str, Callable[[Tensor], Tensor]] = {
    "float32": lambda v: v,
    "float16": lambda v: v.half().float(),
    "bfloat16": lambda v: v.bfloat16().float(),
    "int8 by tensor": lambda v: rounded(v.flatten()).view_as(v),
    "int8 by row": by_row,
    "pruned 50 %": lambda v: thinned(v, 0.5),
    "pruned 90 %": lambda v: thinned(v, 0.9),
}
HIDDEN: dict[str, Callable[[Tensor], Tensor]] = {
    "plain": lambda w: w,
    "noise 1e-4 of a row": lambda w: w + of_size(w, 1e-4),
    "noise 1 %": lambda w: w + of_size(w, 0.01),
    "noise 30 %": lambda w: w + of_size(w, 0.3),
    "noise 70 %": lambda w: w + of_size(w, 0.7),
    "noise 150 %": lambda w: w + of_size(w, 1.5),
    "scaled rows": lambda w: w * (0.1 + rand((len(w), 1), stream(0, "scale"), w)),
    "half ordinary rows": lambda w: mixed(w, 2),
    "nine in ten ordinary": lambda w: mixed(w, 10),
    "permuted": lambda w: w,
}


def of_size(rows: Tensor, share: float) -> Tensor:
    return (
        share
        * rows.norm(dim=1, keepdim=True)
        * randn(tuple(rows.shape), stream(1, "noise"), rows)
        / rows.shape[1] ** 0.5
    )


def mixed(rows: Tensor, every: int) -> Tensor:
    ordinary = (
        randn(tuple(rows.shape), stream(2, "ordinary"), rows) * rows.norm(dim=1, keepdim=True) / rows.shape[1] ** 0.5
    )
    kept = torch.arange(len(rows)) % every == 0
    return torch.where(kept[:, None], rows, ordinary)


def network(name: str, seed: int = 0, weights: str = "untrained") -> Model:
    options = {"width": 16} if name == "convnet" else {}
    return build(name, input_shape=(3, 32, 32), num_classes=10, seed=seed, weights=weights, options=options)


def honest() -> Iterator[tuple[str, str, Model]]:
    """Network, how it was made, and the model."""
    for name, weights in SHIPPED:
        yield name, weights, network(name, weights=weights)
    for name in CHECKPOINTS:
        try:
            yield name, "trained", network(name, weights="trained")
        except FedspillError as error:
            print(f"left out: {error}", file=sys.stderr)
    for name in NETWORKS:
        for seed in range(SEEDS):
            model = network(name, seed)
            yield name, "default", model
            yield from ((name, scheme, initialised(model, scheme, seed)) for scheme in SCHEMES)


def initialised(model: Model, scheme: str, seed: int) -> Model:
    params = {k: v.clone() for k, v in model.params.items()}
    with seeded_globals(stream(seed, "scheme", scheme)):
        for value in params.values():
            SCHEMES[scheme](value) if value.ndim > 1 else None
    return replace(model, params=params)


def alarms(model: Model, previous: Model | None = None) -> list[str]:
    found = inspected(Incoming(model, previous=previous), STANDARD).findings
    return sorted({f.rule_id for f in found if f.severity >= ALARM})


def false_alarms() -> list[dict[str, Any]]:
    rows = list[dict[str, Any]]()
    for name, made, model in honest():
        for stored, change in STORED.items():
            sent = replace(model, params={k: change(v) for k, v in model.params.items()})
            rows.append({"network": name, "made": made, "stored": stored, "alarms": alarms(sent)})
    return rows


def planted() -> list[dict[str, Any]]:
    """Every tampering of the catalogue that needs no data and no training, on two networks."""
    rows = list[dict[str, Any]]()
    for name, card in catalogue.tamperings().items():
        for base in PLANTED_IN if name not in ("maui", "scale_mia") else ():
            model = network(base)
            try:
                sent = card.presets["paper"].tamper(model, None, 0, stream(0, "server")).model
            except FedspillError as error:
                print(f"{name} on {base}: {error}", file=sys.stderr)
                continue
            rows.append({"planted": name, "network": base, "alarms": alarms(sent), "beside": alarms(sent, model)})
    return rows


def hidden() -> list[dict[str, Any]]:
    """An imprint in the first layer of a fully connected network, hidden in each way."""
    model = network("mlp")
    sent = RobbingLinearLayer(cutoffs="laplace").tamper(model, None, 0, stream(0, "server")).model
    first = next(name for name in sent.params if not torch.equal(sent.params[name], model.params[name]))
    rows = list[dict[str, Any]]()
    for how, hide in HIDDEN.items():
        params = {**sent.params, first: hide(sent.params[first])}
        rows.append(
            {"hidden": how, "alarms": alarms(replace(sent, params=permuted(params) if how == "permuted" else params))}
        )
    return rows


def permuted(params: dict[str, Tensor]) -> dict[str, Tensor]:
    """The hidden units of the first layer in another order."""
    names = list(params)
    order = torch.randperm(len(params[names[1]]), generator=stream(3, "order"))
    out = names[2]
    return {**params, names[0]: params[names[0]][order], names[1]: params[names[1]][order], out: params[out][:, order]}


def markdown(record: dict[str, Any]) -> str:
    rows = record["honest"]
    lines = ["| stored as | honest models | with an alarm | by what |", "|---|---|---|---|"]
    for stored in STORED:
        some = [row for row in rows if row["stored"] == stored]
        by = Counter(rule for row in some for rule in row["alarms"])
        lines.append(f"| {stored} | {len(some)} | {sum(bool(r['alarms']) for r in some)} | {_told(by)} |")
    lines += [
        "",
        "| planted | network | alarms without anything beside it | and beside the round before |",
        "|---|---|---|---|",
    ]
    for row in record["planted"]:
        more = [rule for rule in row["beside"] if rule not in row["alarms"]]
        lines.append(f"| {row['planted']} | {row['network']} | {_list(row['alarms'])} | {_list(more)} |")
    lines += ["", "| an imprint's rows | alarms |", "|---|---|"]
    lines += [f"| {row['hidden']} | {_list(row['alarms'])} |" for row in record["hidden"]]
    return "\n".join([*lines, "", f"{record['seconds']:.0f} s of one thread, on a shared machine."])


def _told(counts: Counter[str]) -> str:
    return ", ".join(f"{rule} ({n})" for rule, n in counts.most_common()) or "-"


def _list(rules: list[str]) -> str:
    return ", ".join(rules) or "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="file for the record")
    parser.add_argument("--table", type=Path, help="a record to print, in place of a new run")
    given = parser.parse_args()
    if given.table:
        print(markdown(json.loads(given.table.read_text())))
        return
    torch.set_num_threads(1)
    began = time.process_time()
    record: dict[str, Any] = {"hidden": hidden(), "planted": planted(), "honest": false_alarms()}
    record |= {"torch": torch.__version__, "seconds": time.process_time() - began}
    if given.out:
        write_whole(given.out, json.dumps(record, indent=1) + "\n")
    print(markdown(record))


if __name__ == "__main__":
    main()
