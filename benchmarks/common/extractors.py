"""Which feature extractor a benchmark runs on: `--weights robust | natural | untrained | PATH`."""

import argparse
from pathlib import Path

import torch

from fedspill.core.model import Model
from fedspill.core.probing.head import head_module
from fedspill.inversion.network.extractor import Extractor
from fedspill.zoo import models
from fedspill.zoo.data import DataPool

NAMES = {"natural": "trained"}


def add_arguments(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument("--model", default="cnn")
    parser.add_argument("--weights", nargs="+", default=[default], help="robust, natural, untrained, or a file")
    parser.add_argument("--data-root", default=None)
    parser.add_argument("--device", default="cpu")


def extractor(name: str, weights: str, pool: DataPool, device: str = "cpu") -> Extractor:
    """The network `name` with these weights, cut before its head."""
    model: Model = models.build(
        name,
        input_shape=pool.input_shape,
        num_classes=pool.num_classes,
        weights=NAMES.get(weights, weights),
        mean=pool.mean,
        std=pool.std,
        device=torch.device(device),
    )
    return Extractor(model, head_module(model))


def title(weights: str) -> str:
    """For tables, without the folders of anyone's machine."""
    return Path(weights).stem if "/" in weights or "." in weights else weights
