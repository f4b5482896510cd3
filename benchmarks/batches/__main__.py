"""Batches of an honest server, read instead of searched for.

    FEDSPILL_DATA=/data python -m benchmarks.batches mlp --epochs 0 1 8 --sizes 2 4 8 9 --batches 20
    FEDSPILL_DATA=/data python -m benchmarks.batches hundred --sizes 16 32 64 --batches 5
    FEDSPILL_DATA=/data python -m benchmarks.batches heads | local | noise | whole
    python -m benchmarks.batches certificate

Needs the data folder that holds `cifar-10-batches-py`. Cases are added to those that were measured before;
`certificate` adds up what `noise` has measured.
"""

import argparse

import torch

from benchmarks.batches import certificate, heads, hundred, local, mlp, noise, whole
from benchmarks.common import records


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sizes", type=int, nargs="+", default=[2, 4, 8], help="examples of a batch")
    parser.add_argument("--batches", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)


def _mlp(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--epochs", type=int, nargs="+", default=[0])
    parser.add_argument("--seeds", type=int, default=5, help="initialisations of the untrained network")
    parser.add_argument("--unlabelled", action="store_true")


def _hundred(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--distinct", action="store_true", help="no class twice")
    parser.add_argument("--unlabelled", action="store_true")


def _heads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--networks", nargs="+", default=[])


def _noise(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--levels", nargs="+", default=[], help='such as "int8" or "noise 0.001"; all if none')
    parser.add_argument("--start", type=int, default=0, help="number of the first batch, and of its network")
    parser.add_argument("--trained", type=int, default=0, help="epochs of training")


def _local(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rates", type=float, nargs="+", default=list(local.RATES), help="learning rates")
    parser.add_argument("--cases", nargs="+", choices=list(local.CASES), default=list(local.CASES))
    parser.add_argument("--shuffled", action="store_true", help="in an order that the server does not know")
    parser.add_argument("--unlabelled", action="store_true")


def _whole(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--networks", nargs="+", default=[], choices=list(whole.SECONDS))
    parser.add_argument("--seconds", type=float, help="of the processor, for each search; else by the network")
    parser.add_argument("--sides", nargs="+", default=[], choices=[*whole.SIDES, whole.PEER])


def _nothing(parser: argparse.ArgumentParser) -> None:
    pass


PARTS = {
    "mlp": (mlp, _mlp),
    "hundred": (hundred, _hundred),
    "heads": (heads, _heads),
    "local": (local, _local),
    "noise": (noise, _noise),
    "certificate": (certificate, _nothing),
    "whole": (whole, _whole),
}


def main() -> None:
    """The command."""
    args = records.parse_parts(__doc__, PARTS, _common, None, benchmark="batches", device="cpu")
    torch.set_num_threads(args.threads)
    args.run(args)


main()
