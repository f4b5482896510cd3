"""The layers before a place in a network: their parameters, and the latent that reaches the place."""

from fedspill.core.errors import NotApplicable
from fedspill.core.model import Model
from fedspill.core.types import Params
from fedspill.inversion.network.extractor import Extractor
from fedspill.inversion.network.trace import Step, trace


def steps_before(model: Model, at: str) -> tuple[Step, ...]:
    """The layers that are called before `at`.

    Raises:
        NotApplicable: the network does not call such a layer.
    """
    steps = trace(model).steps
    for i, step in enumerate(steps):
        if step.name == at:
            return steps[:i]
    raise NotApplicable(f"the network does not call a layer {at!r} that has no layers inside")


def encoder_names(model: Model, at: str) -> tuple[str, ...]:
    """Names of the parameters of the layers that are called before `at`, but of those that take no gradient."""
    before = {step.name for step in steps_before(model, at)}
    inside = [name for name in model.params if name.rpartition(".")[0] in before]
    return tuple(name for name in inside if name not in model.frozen)


def with_encoder(model: Model, encoder: Params) -> Model:
    """The model with these parameters, and its own for all others."""
    return model.with_params({**model.params, **{k: v.to(model.like) for k, v in encoder.items()}})


def latents_of(model: Model, at: str) -> Extractor:
    """Encoded inputs to the flat latents that enter `at`."""
    return Extractor(model, at, inside=True)
