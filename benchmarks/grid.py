"""The grid of docs/grid.md: defences at three strengths against attacks that know of them and that do not.

It is `fedspill sweep plans/sweep/grid.toml`, and the same for protocols.toml and repeats.toml there, run into a folder
that git ignores; what the tables need of the rows is recorded. A run that was broken off goes on where it was.

    python -m benchmarks.grid run [--only grid protocols repeats] [--again DEFENCES]
    python -m benchmarks.grid table
"""

import argparse
import csv
import io
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from benchmarks.common import places
from benchmarks.common.records import conditions, run_or_table, write
from fedspill.core.errors import BadInput
from fedspill.core.tensor_files import write_whole
from fedspill.rendering.sweep.facts import KNOWS, is_plain
from fedspill.rendering.sweep.gains import Gain, gains_of
from fedspill.rendering.sweep.prices import prices_of
from fedspill.rendering.sweep.trade_off import trade_off
from fedspill.report.sweep import Outcome, SweepRow
from fedspill.sweeping.driving import Unwatched
from fedspill.sweeping.engines.local import Local
from fedspill.sweeping.grid import points
from fedspill.sweeping.ledger import Ledger, read_trials
from fedspill.sweeping.trials import trials_of
from fedspill.sweeping.whole import run_sweep

PLANS = ("grid", "protocols", "repeats")
RESULTS = places.RESULTS / "grid"
FOLDERS = Path("runs") / "grid"
"""Where the sweeps' own folders lie."""
KEPT = (
    "leaked",
    "examples",
    "metric",
    "unit",
    "worst",
    "median",
    "mean",
    "guessed",
    "epsilon",
    "delta",
    "accuracy",
    "seconds",
)
TRAINED = "utility.seed"
"""What the trials of trainings vary, and no other."""
REPEATS = "server.repeats"
VARIED = ("audit.seeds", KNOWS, TRAINED, "client.num_examples", "client.clients", "client.epochs", REPEATS)
SAME = 0.1
"""dB that are no difference: float32 rounds otherwise from seed to seed."""
SHORT = {
    "softmax_disaggregation": "softmax_dis.",
    "disaggregated_inversion": "dis._inversion",
    "robbing_the_fed": "imprint",
    "inverting_gradients:strong(analytic=False,steps=1000)": "inverting_gr.",
    "cocktail_party:quick": "cocktail_party",
    "idlg:quick(steps=60)": "idlg",
    "spear:quick": "spear",
    "inverting_gradients:strong(analytic=False,steps=300)": "inverting_gr.",
}
"""Heads of columns."""
LONG = (",relative=True,distribution=gaussian", ",epsilon=10", ",gamma=0.16,tau=0.0016")
"""What all strengths of a defence share."""


def run(args: argparse.Namespace) -> None:
    """Runs what is left of the sweeps, and records the rows."""
    for name in args.only:
        table = tomllib.loads((places.REPOSITORY / "plans" / "sweep" / f"{name}.toml").read_text(encoding="utf-8"))
        if args.again:
            take_recorded(name, table, args.again)
        swept = run_sweep(table, FOLDERS / name, lambda: Local("cpu", args.workers), retry=True, follower=Unwatched())
        with closing(Ledger(FOLDERS / name)) as ledger:
            rows = [row for row in ledger.rows() if row.outcome is not None]
        write_whole(RESULTS / f"{name}.csv", as_csv(rows))
        told = {"trials": len(rows), "seconds of one thread": sum(o.seconds for o in outcomes(rows))}
        write(RESULTS / f"{name}.json", {"conditions": conditions(args), **told})
        print(swept.counts)


def take_recorded(name: str, table: dict[str, Any], again: Sequence[str]) -> None:
    """Has a sweep's folder hold the recorded trials, but for attacks under some defences.

    Raises:
        BadInput: the record is of another plan.
    """
    recorded = {row.number: row for row in from_csv(RESULTS / f"{name}.csv") if row.state == "done"}
    with closing(Ledger(FOLDERS / name)) as ledger:
        ledger.add(trials_of(points(table)))
        taken = list[dict[str, Any]]()
        for stored in read_trials(FOLDERS / name):
            row = recorded.get(stored["number"])
            if row is None or row.outcome is None or _is_again(row, again):
                continue
            if (row.attack, row.defence) != (stored["attack"], stored["defence"]):
                raise BadInput(f"trial {row.number} is of {stored['defence']}, recorded is one of {row.defence}")
            taken.append({**stored, **row.outcome.model_dump()})
        ledger.take(taken)


def _is_again(row: SweepRow, again: Sequence[str]) -> bool:
    return TRAINED not in row.values and any(part.split("(")[0] in again for part in row.defence.split(" + "))


def outcomes(rows: Iterable[SweepRow]) -> list[Outcome]:
    """Of the rows that have one."""
    return [row.outcome for row in rows if row.outcome is not None]


def as_csv(rows: Sequence[SweepRow]) -> str:
    """What the tables need."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("number", "attack", "defence", "state", *VARIED, *KEPT, "skipped"))
    for row in rows:
        out = row.outcome or Outcome(state="failed", error="not run")
        said = (out.error or out.skipped or "")[:80]
        varied = [_flat(row.values.get(key)) for key in VARIED]
        writer.writerow(
            (row.number, row.attack, row.defence, row.state, *varied, *(getattr(out, k) for k in KEPT), said)
        )
    return text.getvalue()


def _flat(value: Any) -> Any:
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def from_csv(path: Path) -> list[SweepRow]:
    """The rows as they were recorded."""
    with path.open(encoding="utf-8", newline="") as file:
        return [_row(line) for line in csv.DictReader(file)]


def _row(line: dict[str, str]) -> SweepRow:
    values: dict[str, Any] = {key: _read(line[key]) for key in VARIED if line.get(key)}
    kept = {key: line[key] or None for key in KEPT}
    outcome = Outcome.model_validate(
        {**kept, "state": line["state"], "scored": int(line["examples"] or 0), "skipped": line["skipped"] or None}
    )
    values |= {"defences": line["defence"], "audit.attacks": line["attack"]}
    return SweepRow(
        digest=line["number"],
        number=int(line["number"]),
        values=values,
        attack=line["attack"],
        defence=line["defence"],
        state=outcome.state,
        outcome=outcome,
    )


def _read(text: str) -> Any:
    return {"True": True, "False": False}.get(text) if text in ("True", "False") else int(text)


def lines() -> Iterator[str]:
    """The tables of docs/grid.md."""
    rows = from_csv(RESULTS / "grid.csv")
    attacks = list(dict.fromkeys(row.attack for row in rows))
    _draw(rows)
    yield "\n**What leaks** to attackers who know the defence\n"
    yield from _leaks(rows, attacks)
    yield "\n**What knowing gains**, dB\n"
    yield from _gains(rows, attacks)
    yield from _below(rows)
    if (RESULTS / "protocols.csv").is_file():
        yield "\n**Protocols**\n"
        yield from _protocols(from_csv(RESULTS / "protocols.csv"))
    if (RESULTS / "repeats.csv").is_file():
        yield "\n**Answers to one model** (docs/defences.md)\n"
        yield from _repeats(from_csv(RESULTS / "repeats.csv"))


def _draw(rows: Sequence[SweepRow]) -> None:
    """The picture of docs/grid.md: accuracy against what leaks to the strongest attack that knows, by number."""
    drawn = trade_off(prices_of([row for row in rows if not is_plain(row)]))
    if drawn is not None:
        ink = drawn.replace("currentColor", "#555555").replace("var(--line)", "#cccccc")
        write_whole(places.DOCS / "grid.svg", ink)


def _leaks(rows: Sequence[SweepRow], attacks: Sequence[str]) -> Iterator[str]:
    """Defence by attack: leaked of the examples and mean PSNR, means over seeds; accuracy and epsilon."""
    yield f"| defence | accuracy, % | epsilon | {' | '.join(SHORT.get(a, a) for a in attacks)} |"
    yield f"|---|---|---|{'---|' * len(attacks)}"
    told = [row for row in rows if not is_plain(row)]
    for price in prices_of(told):
        mine = [r for r in told if r.defence == price.defence and TRAINED not in r.values]
        cells = [_cell([r for r in mine if r.attack == attack]) for attack in attacks]
        epsilon = "–" if price.epsilon is None else f"{price.epsilon:.3g}"
        learnt = _accuracy(price.accuracy, price.spread)
        yield f"| {price.number} {_named(price.defence)} | {learnt} | {epsilon} | {' | '.join(cells)} |"


def _named(defence: str) -> str:
    for same in LONG:
        defence = defence.replace(same, "") if "local_dp" not in defence else defence
    return (
        defence.replace("(", " ").replace(")", "").replace(",", ", ").replace("=", " ").replace("whole True", "top-k")
    )


def _accuracy(mean: float | None, spread: float | None) -> str:
    return "–" if mean is None else f"{100 * mean:.0f}" + ("" if spread is None else f" ± {100 * spread:.0f}")


def _cell(rows: Sequence[SweepRow]) -> str:
    """Mean number of leaked examples, and PSNR with grey for what was not read; a dash where no attack applies."""
    found = [o for o in outcomes(rows) if o.leaked is not None and o.guessed is not None]
    if not found:
        return "–"
    return f"{fmean(o.leaked or 0 for o in found):.3g}, {fmean(o.guessed or 0 for o in found):.1f}"


def _gains(rows: Sequence[SweepRow], attacks: Sequence[str]) -> Iterator[str]:
    yield f"| defence | {' | '.join(SHORT.get(a, a) for a in attacks)} |"
    yield f"|---|{'---|' * len(attacks)}"
    found = {(gain.attack, gain.defence): gain for gain in gains_of(rows)}
    for defence in dict.fromkeys(row.defence for row in rows):
        cells = [_gain(found.get((attack, defence))) for attack in attacks]
        if any(cell not in ("", "0") for cell in cells):
            yield f"| {_named(defence)} | {' | '.join(cells)} |"


def _gain(gain: Gain | None) -> str:
    if gain is None:
        return ""
    if abs(gain.mean) < SAME and (gain.spread or 0) < SAME:
        return "0"
    return f"{gain.mean:+.1f}" + ("" if gain.spread is None else f" ± {gain.spread:.1f}")


def _below(rows: Sequence[SweepRow]) -> Iterator[str]:
    """The pairs of attack and defence in which knowing is worse by more than seeds differ."""
    found = gains_of(rows)
    worse = [g for g in found if g.mean < -max(SAME, g.spread or 0.0)]
    yield f"\n{len(found)} pairs of attack and defence; below by more than the seeds' spread: {len(worse)}"
    for gain in worse:
        pair = f"{SHORT.get(gain.attack, gain.attack)}, {_named(gain.defence)}"
        yield f"- {pair}: {gain.mean:+.2f} ± {gain.spread or 0:.2f}, leaked {gain.leaked}"
    alone = _refused_when_told(rows)
    yield f"applied without the knowledge and not with it: {len(alone)}"
    yield from (f"- {attack}, {defence}" for attack, defence in alone)


def _refused_when_told(rows: Sequence[SweepRow]) -> list[tuple[str, str]]:
    scored = {
        (r.attack, r.defence, is_plain(r)) for r in rows if r.outcome is not None and r.outcome.guessed is not None
    }
    return [
        (attack, defence)
        for attack, defence, plain in sorted(scored)
        if plain and (attack, defence, False) not in scored
    ]


def _protocols(rows: Sequence[SweepRow]) -> Iterator[str]:
    """One row for each protocol and attack."""
    pooled = dict[tuple[str, str], list[SweepRow]]()
    for row in rows:
        pooled.setdefault((_protocol(row), row.attack), []).append(row)
    attacks = list(dict.fromkeys(attack for _, attack in pooled))
    yield f"| protocol | n | accuracy, % | {' | '.join(SHORT.get(a, a) for a in attacks)} |"
    yield f"|---|---|---|{'---|' * len(attacks)}"
    for protocol in dict.fromkeys(protocol for protocol, _ in pooled):
        mine = [row for (which, _), of in pooled.items() if which == protocol for row in of]
        learnt = [o.accuracy for o in outcomes(mine) if o.accuracy is not None]
        spread = stdev(learnt) if len(learnt) > 1 else None
        n = max((o.examples or 0 for o in outcomes(mine)), default=0)
        cells = [_cell(pooled.get((protocol, attack), [])) for attack in attacks]
        yield f"| {protocol} | {n} | {_accuracy(fmean(learnt) if learnt else None, spread)} | {' | '.join(cells)} |"


def _protocol(row: SweepRow) -> str:
    values = row.values
    n, clients, epochs = (values.get(f"client.{key}") for key in ("num_examples", "clients", "epochs"))
    sent = f"the change of {epochs} local steps" if epochs is not None else "one gradient"
    return f"{sent} on {n} examples" + ("" if clients in (None, 1) else f" of {clients} clients")


def _repeats(rows: Sequence[SweepRow]) -> Iterator[str]:
    """One row for each defence and attack, one column for each number of answers."""
    counts = sorted({int(row.values[REPEATS]) for row in rows})
    yield f"| defence | attack | {' | '.join(f'{k:,}' for k in counts)} |"
    yield f"|---|---|{'---|' * len(counts)}"
    pooled = dict[tuple[str, str], dict[int, list[SweepRow]]]()
    for row in rows:
        pooled.setdefault((row.defence, row.attack), {}).setdefault(int(row.values[REPEATS]), []).append(row)
    for (defence, attack), of in pooled.items():
        cells = " | ".join(_cell(of.get(k, [])) for k in counts)
        yield f"| {_named(defence)} | {SHORT.get(attack, attack)} | {cells} |"


def own(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--only", nargs="+", choices=PLANS, default=PLANS, help="these sweeps")
    parser.add_argument("--again", nargs="+", default=(), help="defences under which attacks alone are run anew")
    parser.add_argument("--workers", type=int, default=2)


if __name__ == "__main__":
    run_or_table("grid", __doc__, own, run, lines)
