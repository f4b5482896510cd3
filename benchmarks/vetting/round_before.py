"""Label flips beside the model of the round before, which `run` gives to dormant plants alone.

    python -m benchmarks.vetting.round_before

Presets of `label_flip` in networks of the zoo (seed 0), 8 CIFAR-10 test images from 9000 on as own data, the agreed
network given, levels as shipped. FEDSPILL_DATA holds CIFAR-10 and the weights of its ResNet-20. Prints Markdown.
"""

import torch

import fedspill
from fedspill import catalogue
from fedspill.core.model import Model
from fedspill.core.rng import stream
from fedspill.vetting.policy import STANDARD
from fedspill.zoo import data
from fedspill.zoo.models import build

HOSTS = tuple(
    (name, weights) for name in ("cnn", "convnet", "lenet", "resnet20") for weights in ("trained", "untrained")
)


def host(name: str, weights: str) -> Model:
    options = {"width": 16} if name == "convnet" else {}
    return build(name, input_shape=(3, 32, 32), num_classes=10, seed=0, weights=weights, options=options)


def alarms(sent: Model, agreed: Model, previous: Model | None) -> str:
    own = data.load("cifar10", split="test", indices=range(9000, 9008)).batch
    found = fedspill.vet(sent, own_data=own, previous=previous, reference=agreed)
    return ", ".join(sorted({f.rule_id for f in found if f.severity >= STANDARD.fail_from})) or "-"


def main() -> None:
    torch.set_num_threads(1)
    public = data.load("cifar10", split="train", indices=range(64)).batch
    print("| network | preset | with the round before | without |\n|---|---|---|---|")
    for name, weights in (*HOSTS, ("mlp", "untrained")):
        honest = host(name, weights)
        for preset, tampering in catalogue.tamperings()["label_flip"].presets.items():
            sent = tampering.tamper(honest, public, 0, stream(0, "server")).model
            told = alarms(sent, honest, honest), alarms(sent, honest, None)
            print(f"| {name}, {weights} | {preset} | {told[0]} | {told[1]} |", flush=True)


if __name__ == "__main__":
    main()
