"""The zoo's own networks by name, with their options."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from fedspill.core.inputs import ImageSpec, TableSpec, TokenSpec
from fedspill.zoo.networks.cnn import CNNOptions, cnn
from fedspill.zoo.networks.convnet import ConvNetOptions, convnet
from fedspill.zoo.networks.gpt import GPTOptions, gpt
from fedspill.zoo.networks.initialise import (
    Scheme,
    gpt2,
    half_uniform,
    kaiming_fan_in,
    kaiming_fan_out,
    language_model,
    torch_default,
)
from fedspill.zoo.networks.lenet import LeNetOptions, lenet
from fedspill.zoo.networks.mlp import MLPOptions, mlp
from fedspill.zoo.networks.resnet import Bottleneck, ResNetOptions, resnet
from fedspill.zoo.networks.resnet_a import ResNetAOptions, resnet_a
from fedspill.zoo.networks.shufflenet import ShuffleNetOptions, shufflenet_v2
from fedspill.zoo.networks.strided_cnn import StridedCNNOptions, strided_cnn
from fedspill.zoo.networks.transformer import TransformerOptions, transformer

IMAGES: frozenset[type[Any]] = frozenset({ImageSpec})


@dataclass(frozen=True)
class Network:
    """One name of the zoo.

    Attributes:
        summary: one line for a listing.
        make: (input shape, number of classes, options) to the module.
        scheme: how its weights are drawn.
        options: the defaults; their class says what may be set.
        accepts: the kinds of inputs that it takes.
    """

    summary: str
    make: Callable[[Any, int, Any], nn.Module]
    scheme: Scheme
    options: Any
    accepts: frozenset[type[Any]] = IMAGES


def _projection(summary: str, width: int = 64, **shape: Any) -> Network:
    return Network(summary, partial(resnet, **shape), kaiming_fan_out, ResNetOptions(width=width))


def _option_a(layers: int) -> Network:
    summary = f"CIFAR ResNet-{layers} with option-A shortcuts; trained weights are known"
    return Network(summary, partial(resnet_a, depth=(layers - 2) // 6), kaiming_fan_in, ResNetAOptions())


NETWORKS: dict[str, Network] = {
    "lenet": Network("LeNet of DLG: 3 convolutions, sigmoid, U(-0.5, 0.5)", lenet, half_uniform, LeNetOptions()),
    "convnet": Network(
        "ConvNet of Inverting Gradients: 8 convolutions, BatchNorm, ReLU",
        convnet,
        torch_default,
        ConvNetOptions(),
    ),
    "cnn": Network(
        "Six convolutions in `extractor`, 512 values to a linear `head`: for transfer learning (Maui)",
        cnn,
        kaiming_fan_out,
        CNNOptions(),
    ),
    "strided_cnn": Network(
        "Three strided convolutions in `extractor`, 1,024 values to a `head` of three linear layers (Scale-MIA)",
        strided_cnn,
        torch_default,
        StridedCNNOptions(),
    ),
    "mlp": Network(
        "Fully connected network, for images and tables",
        mlp,
        torch_default,
        MLPOptions(),
        IMAGES | {TableSpec},
    ),
    "transformer": Network(
        "Transformer of Wang et al. 2021 that predicts next tokens, for sentences",
        transformer,
        language_model,
        TransformerOptions(),
        frozenset({TokenSpec}),
    ),
    "gpt": Network(
        "GPT-2's architecture at any width and depth, random weights; predicts next tokens, for sentences",
        gpt,
        gpt2,
        GPTOptions(),
        frozenset({TokenSpec}),
    ),
    "resnet20_4": _projection("ResNet20-4 of Inverting Gradients: 3 stages, 64/128/256", depths=(3, 3, 3)),
    "resnet32_10": _projection("ResNet32-10 of Inverting Gradients: 3 stages, 160/320/640", 160, depths=(5, 5, 5)),
    "resnet18": _projection("ResNet-18, CIFAR or ImageNet stem", depths=(2, 2, 2, 2)),
    "resnet34": _projection("ResNet-34, CIFAR or ImageNet stem", depths=(3, 4, 6, 3)),
    "resnet50": _projection("ResNet-50, CIFAR or ImageNet stem", block=Bottleneck, depths=(3, 4, 6, 3)),
    "shufflenet_v2": Network(
        "ShuffleNet V2 for small images, 1,024 values to the head", shufflenet_v2, kaiming_fan_out, ShuffleNetOptions()
    ),
    **{f"resnet{layers}": _option_a(layers) for layers in (20, 32, 44, 56)},
}

SMALL = 64
"""Pixels on a side up to which a picture counts as one for which ResNets have a small stem."""


def has_unsaid_small_stem(name: str, options: Mapping[str, object], shape: tuple[int, ...]) -> bool:
    """Whether a network has the stem for small pictures, on large ones, and nobody asked for it.

    The default depends on no picture; whoever audits a network on large ones most likely runs the other one.

    Args:
        options: those that were given.
        shape: of one encoded input.
    """
    network = NETWORKS.get(name)
    return (
        network is not None
        and isinstance(network.options, ResNetOptions)
        and "stem" not in options
        and max(shape[1:], default=0) > SMALL
    )


DEFAULTS: dict[type[Any], str] = {ImageSpec: "convnet", TokenSpec: "transformer", TableSpec: "mlp"}
"""The network of a plan that names none."""
