"""Trained weights that the zoo knows: small ones in the package, option-A ResNets in the data folder."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from fedspill.core.errors import BadInput
from fedspill.core.tensor_files import read_metadata, read_tensors
from fedspill.core.types import Params
from fedspill.zoo.root import VARIABLE, data_root
from fedspill.zoo.statistics import IMAGENET, Statistics

SHIPPED = Path(__file__).parent / "weights"
CHECKPOINTS = ("resnet20", "resnet32", "resnet44", "resnet56")


@dataclass(frozen=True)
class Trained:
    """Weights with what they expect of their input.

    Attributes:
        source: for messages and reports.
        statistics: the normalisation that the weights were trained with; None if the file does not say.
    """

    tensors: Params
    source: str
    statistics: Statistics | None


def from_file(path: str | Path) -> Trained:
    """Weights from a file of the user's; one that `fedspill.training.shipped` wrote brings its normalisation.

    Raises:
        BadInput: see `read_tensors`.
    """
    metadata = read_metadata(path) if Path(path).is_file() else {}
    statistics = None
    if "mean" in metadata and "std" in metadata:
        try:
            statistics = Statistics(tuple(json.loads(metadata["mean"])), tuple(json.loads(metadata["std"])))
        except (TypeError, ValueError) as error:
            raise BadInput(f"{str(path)!r}: metadata mean and std are no JSON lists of numbers") from error
    return Trained(read_tensors(path), str(path), statistics)


def known(name: str, root: str | Path | None, *, robust: bool = False) -> Trained:
    """The trained weights that the zoo knows for a network.

    Args:
        name: of the network.
        root: see `data_root`.
        robust: those of adversarial training.

    Raises:
        BadInput: none are known, or the data folder does not hold them.
    """
    if robust and not (SHIPPED / f"cifar10_{name}_robust.safetensors").is_file():
        have = sorted(p.stem.removeprefix("cifar10_").removesuffix("_robust") for p in SHIPPED.glob("*_robust.*"))
        raise BadInput(f"no robust weights are known for {name!r}; there are {', '.join(have)}; give a path to a file")
    shipped = SHIPPED / f"cifar10_{name}{'_robust' if robust else ''}.safetensors"
    if shipped.is_file():
        options = read_metadata(shipped).get("options")
        return replace(from_file(shipped), source=f"trained weights of {name} (options {options})")
    if name not in CHECKPOINTS:
        stems = [p.stem.removeprefix("cifar10_") for p in SHIPPED.glob("*.safetensors")]
        have = sorted(stem for stem in stems if not stem.endswith("_robust"))
        raise BadInput(
            f"no trained weights are known for {name!r}; there are {', '.join([*have, *CHECKPOINTS])};"
            ' give a path to a file, or weights = "untrained"'
        )
    folder = data_root(root)
    files = [] if folder is None else sorted((folder / "weights").glob(f"cifar10_{name}-*.pt"))
    if not files:
        where = f"{VARIABLE} is not set" if folder is None else f"{str(folder / 'weights')!r} has none"
        raise BadInput(f"trained weights of {name} need a file weights/cifar10_{name}-*.pt in the data folder; {where}")
    return Trained(read_tensors(files[0]), str(files[0]), IMAGENET)
