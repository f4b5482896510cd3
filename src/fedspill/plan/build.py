"""The network that a plan's section `model` names, for the examples of a pool, fed as the section says."""

from pathlib import Path

import torch

from fedspill.core.errors import BadInput
from fedspill.core.model import Model
from fedspill.plan.sections import ModelSection
from fedspill.zoo.data import DataPool, load
from fedspill.zoo.measured_statistics import measured
from fedspill.zoo.models import Built, built, default_network
from fedspill.zoo.statistics import IDENTITY, Normalisation, known, named, stated

UNLABELLED_CLASSES = 10
"""Classes of a network that is built for data without labels."""
WITH_PUBLIC_HALF = "photos"
"""The source of images that has a public split of its own."""


def network(
    section: ModelSection,
    pool: DataPool,
    root: str | None,
    device: torch.device,
    default: str | None = None,
    public: DataPool | None = None,
) -> Model:
    """Builds it with its weights.

    Args:
        section: of a plan.
        pool: whose examples it takes.
        root: folder of the data, where known checkpoints lie.
        device: where it goes.
        default: name of the network if the section names none; None takes the one for this kind of data.
        public: examples on which "the data's statistics" may be measured.

    Raises:
        BadInput: see `zoo.models.build`; or nobody says what images are normalised by.
    """
    return described_network(section, pool, root, device, default, public).model


def described_network(
    section: ModelSection,
    pool: DataPool,
    root: str | Path | None,
    device: torch.device,
    default: str | None = None,
    public: DataPool | None = None,
) -> Built:
    """As `network`, with who says what its images are normalised by.

    Raises:
        BadInput: as `network`.
    """
    return built(
        section.name or default or default_network(pool.spec),
        input_shape=pool.input_shape,
        num_classes=section.num_classes or (pool.num_classes if pool.num_classes > 1 else UNLABELLED_CLASSES),
        spec=pool.spec,
        weights=section.weights,
        mode=section.mode,
        seed=section.seed,
        data_root=root,
        device=device,
        dtype=getattr(torch, section.dtype),
        options=section.options,
        data=known(pool.mean, pool.std),
        normalisation=said(section, pool, public),
        assume=False,
        classes_said=section.num_classes is not None,
    )


def said(section: ModelSection, pool: DataPool, public: DataPool | None) -> Normalisation | None:
    """What the section says that images are normalised by; None if it leaves that to the weights.

    Raises:
        BadInput: the values are none, or the data's statistics are not to be had.
    """
    if section.normalise == "data" or "data" in (section.mean, section.std):
        return of_data(pool, public)
    if section.normalise is False:
        return Normalisation(IDENTITY, "none, as the plan says")
    if isinstance(section.normalise, str) and (found := named(section.normalise, "the plan")) is not None:
        return found
    mean, std = (None if isinstance(part, str) else part for part in (section.mean, section.std))
    if mean is None and section.range is None:
        return None
    return Normalisation(stated(mean, std, section.range), "as the plan says")


def of_data(pool: DataPool, public: DataPool | None) -> Normalisation:
    """The data's statistics: its constants if it has any, else measured on public images; never on private ones.

    Raises:
        BadInput: no constants are known, and there are no public images; or the examples are no images.
    """
    if pool.spec is not None:
        raise BadInput("normalise is of images; sentences and table rows bring their own encoding")
    if (constants := known(pool.mean, pool.std)) is not None:
        return Normalisation(constants, f"constants of {pool.name}")
    if public is None and pool.name.partition("/")[0] == WITH_PUBLIC_HALF:
        public = load(WITH_PUBLIC_HALF, split="public", size=pool.input_shape[-1])
    if public is None:
        raise BadInput(
            f"the statistics of {pool.name!r} are not known, and are not measured on private images; name public ones"
            " (server.public), or give mean and std"
        )
    return Normalisation(measured(public.batch.inputs), f"measured on {len(public)} public images of {public.name}")


def pick_device(name: str) -> torch.device:
    """CUDA for "auto" where there is one.

    Raises:
        BadInput: CUDA is asked for and there is none.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise BadInput(f"--device {name!r} is unknown; it is auto, cpu or cuda")
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise BadInput("--device cuda: this PyTorch sees no CUDA device; use --device cpu or auto")
    return torch.device("cuda" if available and name != "cpu" else "cpu")
