"""Planted rows read by somebody who does not know them (`imprint_bins`), beside the readout of whoever planted them.

    python -m benchmarks.imprint.blind presets   # every preset of every tampering that reads, n = 8
    python -m benchmarks.imprint.blind hidden    # rows in the network's own layer, hidden in several ways, n = 64

CIFAR-10 test images from 9000 on, untrained networks of the zoo (seed 0), one gradient in eval mode. Counted are
private images that some candidate matches above 40 dB. FEDSPILL_DATA holds CIFAR-10. Prints Markdown.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from fedspill import catalogue
from fedspill.attacks.imprint_bins import ImprintBins
from fedspill.core.errors import FedspillError
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedSGD, local_update
from fedspill.core.model import Model
from fedspill.core.rng import rand, randn, stream
from fedspill.core.roles import Attack, Tampered
from fedspill.core.types import Batch
from fedspill.scoring.metrics import by_names
from fedspill.scoring.score import score_all
from fedspill.tamperings.robbing_linear_layer import RobbingLinearLayer
from fedspill.zoo import data
from fedspill.zoo.models import build

NETWORKS = ("cnn", "mlp", "resnet20")
TAMPERINGS = ("robbing_the_fed", "robbing_linear_layer", "loki", "one_shot", "scale_mia", "trap_weights")
READ = 40.0
"""dB above which an image counts as read."""
NOISES = (1e-4, 1e-3, 0.01, 0.1, 0.3)


def network(name: str) -> Model:
    return build(name, input_shape=(3, 32, 32), num_classes=10, seed=0)


def images(count: int) -> Batch:
    return data.load("cifar10", split="test", indices=range(9000, 9000 + count)).batch


def read(attack: Attack, model: Model, private: Batch) -> str:
    """How many images are read, or that it is refused."""
    update = local_update(model, private, FedSGD())
    try:
        got = attack.reconstruct(update, ServerKnowledge(model, num_examples=len(private)), stream(0, "attack"))
    except FedspillError:
        return "refused"
    values = score_all(got.inputs.float(), private.inputs, by_names(("psnr",))).metrics[0].values
    return str(int((values > READ).sum()))


def presets() -> Iterator[str]:
    private = images(8)
    yield "| network | planted | blind, of 8 | its own readout |\n|---|---|---|---|"
    for name in NETWORKS:
        for tampering in TAMPERINGS:
            for preset, made in catalogue.tamperings()[tampering].presets.items():
                try:
                    sent = made.tamper(network(name), images(16), 0, stream(0, "server"))
                except FedspillError:
                    continue  # the network has no such layer
                assert sent.readout is not None
                own = read(sent.readout, sent.model, private)
                yield f"| {name} | {tampering}:{preset} | {read(ImprintBins(), sent.model, private)} | {own} |"


def hidden() -> Iterator[str]:
    honest, private = network("mlp"), images(64)
    yield "| rows | hidden by | blind, of 64 | its own readout |\n|---|---|---|---|"
    strong = catalogue.tamperings()["robbing_linear_layer"].presets["strong"]
    for rows, tampering in (("mean, Laplace cutoffs", RobbingLinearLayer(cutoffs="laplace")), ("strong", strong)):
        sent = tampering.tamper(honest, None, 0, stream(0, "server"))
        assert sent.readout is not None
        for how, params in changes(honest, sent):
            model = replace(sent.model, params={**sent.model.params, **params})
            yield f"| {rows} | {how} | {read(ImprintBins(), model, private)} | {read(sent.readout, model, private)} |"


def changes(honest: Model, sent: Tampered) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """What is changed in the first layer that the server wrote to, and in the one behind it."""
    names, params = list(sent.model.params), sent.model.params
    first = next(k for k in names if not torch.equal(params[k], honest.params[k]))
    bias, after = names[names.index(first) + 1], names[names.index(first) + 2]
    weight = params[first]
    yield "nothing", {}
    for share in NOISES:
        noise = randn(tuple(weight.shape), stream(1, "noise"), weight) / weight.shape[1] ** 0.5
        yield f"noise of {share:g} of a row", {first: weight + share * weight.norm(dim=1, keepdim=True) * noise}
    order = torch.randperm(len(weight), generator=stream(2, "order"))
    yield "another order", {first: weight[order], bias: params[bias][order], after: params[after][:, order]}
    by = 0.1 + rand((len(weight),), stream(3, "scale"), weight)
    scaled = {first: weight * by[:, None], bias: params[bias] * by}
    yield "scaled rows", scaled
    yield "scaled rows, taken back behind", {**scaled, after: params[after] / by}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("presets", "hidden"))
    torch.set_num_threads(1)
    for line in presets() if parser.parse_args().what == "presets" else hidden():
        print(line, flush=True)


if __name__ == "__main__":
    main()
