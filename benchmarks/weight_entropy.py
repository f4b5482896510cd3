"""The detector of Maui's section 3.2 on the zoo's `cnn`: handcrafted weights repeat, trained and random ones do not.

    python -m benchmarks.weight_entropy --natural cnn.safetensors --maui maui.safetensors --figure fig12.png

CIFAR-10 lies under FEDSPILL_DATA. Four models, as in the paper's Fig. 12: untrained; trained; the trained one with
three identity kernels in every convolution and imprint rows in the head; a Maui model. Without --natural the network
is trained here for an epoch; without --maui the head has random rows with quantile biases on the trained extractor.
Prints markdown; --figure also writes the boxplots.
"""

import argparse
import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from fedspill.core.inputs import ImageSpec
from fedspill.core.model import Model
from fedspill.core.rng import rand, randn, stream
from fedspill.core.roles import Incoming
from fedspill.core.tensor_files import read_tensors
from fedspill.core.types import Batch, Params
from fedspill.guard.weight_entropy import WeightEntropy, entropy, weight_vectors
from fedspill.inversion.identity.transparent import linearised
from fedspill.inversion.network.extractor import Extractor, two_layer_head, with_module
from fedspill.tamperings.robbing_linear_layer import RobbingLinearLayer
from fedspill.training.trainer import Recipe, Trainer
from fedspill.zoo.data import load
from fedspill.zoo.models import build
from fedspill.zoo.statistics import CIFAR10

CLASSES, LANES = 10, 3


def network(weights: str = "untrained") -> Model:
    return build(
        "cnn", input_shape=(3, 32, 32), num_classes=CLASSES, weights=weights, mean=CIFAR10.mean, std=CIFAR10.std
    )


def trained_here(epochs: int) -> Model:
    """Plain training, long enough that every weight has moved."""
    model, data = network(), load("cifar10", split="train").batch
    model.module.load_state_dict({**model.params, **model.buffers})
    trainer = Trainer(
        model.module, Recipe(epochs, lr=0.2, weight_decay=5e-4), epochs, data, ImageSpec((3, 32, 32), **vars(CIFAR10))
    )
    for _ in range(epochs):
        loss = sum(trainer.epoch()) / trainer.steps
    test = load("cifar10", split="test").batch
    print(f"trained for {epochs} epochs: loss {loss:.3f}, test accuracy {trainer.accuracy(test):.1%}\n", flush=True)
    state = {k: v.detach().contiguous() for k, v in model.module.state_dict().items()}
    return model.with_params({k: state[k] for k in model.params}, {k: state[k] for k in model.buffers})


def uniform_head(inside: int, width: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Two linear layers by PyTorch's default."""
    rng, like = stream(0, "entropy", "head"), torch.zeros(())

    def layer(outside: int, fan: int) -> tuple[Tensor, Tensor]:
        bound = 2 / math.sqrt(fan)
        return (rand((outside, fan), rng, like) - 0.5) * bound, (rand((outside,), rng, like) - 0.5) * bound

    return layer(width, inside), layer(CLASSES, width)


def handcrafted(model: Model, public: Batch, width: int) -> Model:
    """Three channels of every convolution hand the picture on, and the head's first layer is an imprint."""
    first, second = uniform_head(model.params["head.weight"].shape[1], width)
    wide = with_module(model, "head", two_layer_head(first, second))
    identity, params = linearised(wide, "head", lanes="three", relu="shift").params, dict(wide.params)
    for name, value in params.items():  # the other channels stay as they were trained
        if name.startswith("extractor."):
            params[name] = torch.cat([identity[name][:LANES], value[LANES:]])
    changed = wide.with_params(params)
    return changed.with_params({**params, **imprinted(changed, public, (first, second))})


def imprinted(model: Model, public: Batch, layers: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Params:
    """The head's parameters with bins for what the extractor hands on, a picture among other things."""
    features = Extractor(model, "head").of(public.inputs)[:, :, None, None]
    module = nn.Sequential(OrderedDict(flat=nn.Flatten(), head=two_layer_head(*layers)))
    alone = Model.of(module, ImageSpec((features.shape[1], 1, 1), bounds=(0.0, float(features.max()))))
    tampering = RobbingLinearLayer(at="head.0", cutoffs="auto")
    return tampering.tamper(alone, Batch(features, public.labels), 0, stream(0, "server")).model.params


def quantile_head(model: Model, public: Batch, width: int, batch: int = 64) -> Model:
    """Random rows of which each fires for one example in a batch: what a Maui head is initialised with."""
    features = Extractor(model, "head").of(public.inputs)
    rows = randn((width, features.shape[1]), stream(0, "entropy", "quantile"), features) / features.shape[1] ** 0.5
    bias = -(features @ rows.T).quantile(1 - 1 / batch, dim=0)
    _, second = uniform_head(features.shape[1], width)
    return with_module(model, "head", two_layer_head((rows, bias), second))


def maui_model(model: Model, path: str) -> Model:
    """The network with the two-layer head of a file, and with the file's extractor if it holds one."""
    tensors = read_tensors(path)
    head = {k.removeprefix("head."): v for k, v in tensors.items() if not k.startswith("extractor.")}
    weights = sorted(k for k in head if k.endswith("weight"))
    layers = [(head[k], head[k.removesuffix("weight") + "bias"]) for k in weights]
    made = with_module(model, "head", two_layer_head(layers[0], layers[1]))
    own = {k: v for k, v in tensors.items() if k.startswith("extractor.")}
    params = {k: own.get(k, v) for k, v in made.params.items()}
    return replace(made.with_params(params), buffers={k: own.get(k, v) for k, v in made.buffers.items()})


def measured(model: Model) -> dict[str, Tensor]:
    """Every vector's entropy by unit."""
    found = dict[str, list[Tensor]]()
    for _, cut in weight_vectors(model):
        for vectors in cut:
            found.setdefault(vectors.unit, []).append(entropy(vectors.values))
    return {unit: torch.cat(parts) for unit, parts in found.items()}


def line(name: str, model: Model) -> str:
    found, check = measured(model), WeightEntropy()
    cells = list[str]()
    for unit in ("kernel", "row", "layer"):
        h = found[unit]
        low = h[h < check.threshold]
        share = f"{len(low)} of {len(h)} ({len(low) / len(h):.1%})"
        cells.append(f"{max(0.0, float(h.min())):.3f} | {share} | {f'{float(low.max()):.3f}' if len(low) else '-'}")
    return f"| {name} | {' | '.join(cells)} | {len(check.inspect(Incoming(model)))} |"


def draw(models: Mapping[str, Model], path: Path) -> None:
    """Boxplots over all kernels and rows."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    values = [
        torch.cat([h for u, h in measured(m).items() if u != "layer"]).clamp_min(0).numpy() for m in models.values()
    ]
    axes.boxplot(values, tick_labels=list(models))
    axes.axhline(WeightEntropy().threshold, linestyle="--", linewidth=1, color="grey")
    axes.set(ylabel="normalised entropy", ylim=(-0.05, 1.05))
    figure.savefig(path, dpi=150)


HEAD = (
    "| model | kernels: lowest | low | highest of the low | rows: lowest | low | highest of the low"
    " | layers: lowest | low | highest of the low | findings |\n|---|---|---|---|---|---|---|---|---|---|---|"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--natural", help="trained weights of `cnn`")
    parser.add_argument("--maui", help="weights of `cnn` with a two-layer head, or of the head alone")
    parser.add_argument("--width", type=int, default=1024, help="of the two-layer heads")
    parser.add_argument("--epochs", type=int, default=1, help="of training, without --natural")
    parser.add_argument("--figure", type=Path, help="file for the boxplots")
    given = parser.parse_args()
    public = load("cifar10", split="train", indices="0:3000").batch
    natural = network(given.natural) if given.natural else trained_here(given.epochs)
    models = {
        "random": network(),
        "natural": natural,
        "RtF + identity": handcrafted(natural, public, given.width),
        "Maui": maui_model(natural, given.maui) if given.maui else quantile_head(natural, public, given.width),
    }
    print(HEAD)
    for name, model in models.items():
        print(line(name, model), flush=True)
    if given.figure:
        draw(models, given.figure)


if __name__ == "__main__":
    main()
