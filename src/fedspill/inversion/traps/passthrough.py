"""How the network's input arrives at its first linear layer, in numbers from 0 to 1, and the way back.

A fully connected network hands on its encoded input; a convolutional one, once its convolutions are identities,
hands on pixels. Either way each feature is an affine function of one number of the input, so that rows made for
data in [0, 1] can be sent as weights and biases for what really arrives.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fedspill.core.errors import NotApplicable
from fedspill.core.inputs import ImageSpec, InputSpec
from fedspill.core.model import Model
from fedspill.inversion.codebooks.lattice import lattice_residual
from fedspill.inversion.gradients.layer import Layer
from fedspill.inversion.identity.lanes import identity_params
from fedspill.inversion.identity.pixel_map import PixelMap, pictures, pixel_map
from fedspill.inversion.network.trace import Step, first_linear, trace

BEYOND = 1e30


@dataclass(frozen=True)
class PassThrough:
    """A linear layer and what its input says of the network's input.

    Attributes:
        at: the layer's name.
        layer: names of its weight and bias.
        gain: unit = gain * feature + offset lies in [0, 1]; 0 for a feature that carries nothing. Float64.
        offset: of every feature, see `gain`. Float64.
        seen: which pixel a feature shows behind convolutions; None in front of which nothing happens.
    """

    at: str
    layer: Layer
    gain: Float[Tensor, " d"]
    offset: Float[Tensor, " d"]
    seen: PixelMap | None = None

    @property
    def used(self) -> Tensor:
        """Positions of the features that carry something."""
        return self.gain.nonzero()[:, 0]

    def units(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n used"]:
        """What the features carry, in [0, 1] for valid inputs, float64."""
        return (features.double() * self.gain + self.offset)[:, self.used]

    def folded(self, rows: Float[Tensor, "rows used"]) -> tuple[Float[Tensor, "rows d"], Float[Tensor, " rows"]]:
        """Weight and bias that do to the features what `rows` do to the units."""
        weight = self.gain.new_zeros(len(rows), len(self.gain))
        weight[:, self.used] = rows.double() * self.gain[self.used]
        return weight, rows.double() @ self.offset[self.used]

    def is_whole(self, spec: InputSpec) -> bool:
        """Whether the layer sees every value of the input, so that none is interpolated."""
        return self.seen is None or not isinstance(spec, ImageSpec) or self.seen.is_whole(spec)

    def encoded(self, features: Float[Tensor, "n d"], spec: InputSpec) -> Float[Tensor, "n ..."]:
        """The network's encoded inputs, float64; pixels that no feature shows are interpolated."""
        if self.seen is None:
            return features.double().view(len(features), *spec.encoded_shape)
        assert isinstance(spec, ImageSpec)
        return spec.encode(pictures(self.seen, features.double(), spec))

    def off_lattice(self, features: Float[Tensor, "n d"], spec: InputSpec) -> Float[Tensor, " n"]:
        """See `lattice.lattice_residual`; of the pixels that are shown, if there are convolutions."""
        if self.seen is None or not isinstance(spec, ImageSpec):
            return lattice_residual(spec, features)
        shown = self.seen.pixels(features.double())[:, self.used]
        return lattice_residual(ImageSpec((1, 1, len(self.used)), spec.bounds), shown)


def carried(model: Model, *, phases: bool) -> tuple[Model, PassThrough]:
    """The model with its convolutions, if there are any, made identities, and how the input arrives.

    Args:
        model: fully connected, or a plain stack of convolutions and linear layers.
        phases: use free channels so that strides lose fewer pixels.

    Raises:
        NotApplicable: the network is neither (a ResNet, for instance); names the layer in the way.
    """
    traced = trace(model)
    if not _convolves([s.module for s in traced.steps]):
        step = first_linear(traced, model.input)
        return model, PassThrough(step.name, _layer(step), *_unit_range(model.input, model.like))
    params, step = identity_params(model, traced, phases=phases)
    changed = model.with_params(params)
    seen = pixel_map(changed, step.name)
    return changed, PassThrough(step.name, _layer(step), *_affine(seen), seen)


def _convolves(modules: list[nn.Module]) -> bool:
    kinds = [m for m in modules if isinstance(m, nn.Linear | nn.Conv2d)]
    return bool(kinds) and isinstance(kinds[0], nn.Conv2d)


def _layer(step: Step) -> Layer:
    weight, bias = step.parameter("weight"), step.parameter("bias")
    if weight is None or bias is None:
        raise NotApplicable(f"{step.describe()} has no bias, by whose gradient rows are divided")
    return Layer(weight, bias)


def _unit_range(spec: InputSpec, like: Tensor) -> tuple[Tensor, Tensor]:
    far = torch.full(spec.encoded_shape, BEYOND, dtype=torch.float64, device=like.device)
    low, high = spec.project(-far).flatten(), spec.project(far).flatten()
    return 1 / (high - low), -low / (high - low)


def _affine(seen: PixelMap) -> tuple[Tensor, Tensor]:
    dark, bright = seen.answers[:, 0], seen.answers[:, -1]
    gain = torch.where(seen.alive, 1 / (bright - dark), 0.0)
    return gain, torch.where(seen.alive, -dark * gain, 0.0)
