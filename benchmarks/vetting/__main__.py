"""`fedspill vet` evaluated as a detector.

    python -m benchmarks.vetting run      # all cases; goes on where it was ended
    python -m benchmarks.vetting entropy  # the models of the entropy row
    python -m benchmarks.vetting table    # of what was recorded, as Markdown; --into FILE puts it between its marks
    python -m benchmarks.vetting plot     # found against still read

FEDSPILL_DATA holds CIFAR-10 and the weights of its option-A ResNets. torchvision's and timm's networks are looked at
where these are installed.
"""

import argparse
import contextlib
import sys
import time
from pathlib import Path

import torch

from benchmarks.common.places import DOCS
from benchmarks.vetting import measuring, records

BEGIN, END = "<!-- of benchmarks.vetting: begin -->", "<!-- of benchmarks.vetting: end -->"


def run(file: Path, only: str, count: int) -> None:
    """Cases that are not recorded yet, and dials that are newer than a record; each written as soon as it is done."""
    done, began, left = {r["case"]: r for r in records.read(file)}, time.process_time(), count
    for case in measuring.cases():
        if only not in case.name or not left:
            continue
        known = done.get(case.name)
        record = measuring.measured(case) if known is None else measuring.filled(case, known)
        if record != known:
            records.append(file, record)
            left -= 1
    print(f"{time.process_time() - began:.0f} s of one thread", file=sys.stderr)


def put(file: Path, text: str) -> None:
    """Replaces what stands between the marks of a document."""
    before, _, rest = file.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    file.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "entropy", "table", "plot"))
    parser.add_argument("--cases", type=Path, default=records.CASES, help="file of the record")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--count", type=int, default=-1, help="so many cases more, then no more")
    parser.add_argument("--figure", type=Path, default=DOCS / "vetting.png")
    parser.add_argument("--into", type=Path, help="document whose table is replaced")
    given = parser.parse_args()
    with contextlib.suppress(ImportError):
        import benchmarks.common.cpu_torchvision  # noqa: F401
    torch.set_num_threads(1)
    if given.what == "run":
        run(given.cases, given.only, given.count)
    elif given.what == "table":
        from benchmarks.vetting.table import markdown

        text = markdown(records.read(given.cases))
        print(text) if given.into is None else put(given.into, text)
    elif given.what == "entropy":
        from benchmarks.vetting.entropy import measured

        for record in measured():
            records.append(given.cases, record)
    else:
        from benchmarks.vetting.plot import draw

        draw(records.read(given.cases), given.figure)


if __name__ == "__main__":
    main()
