"""Convolutions that hand on principal components of what they see, and their inverse: an autoencoder in closed form.

A convolution with stride s looks at the blocks of s x s places of its input through the middle of its kernel. It hands
on the directions in which the blocks of public images vary most, shifted so that the ReLU behind it cuts nothing off.
Stage after stage is then linear, and is undone by the same directions. The second moments of a few hundred public
images are all that is needed: nothing is trained. Not in Scale-MIA, which trains.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from fedspill.core.blocks import by_rows
from fedspill.core.errors import NotApplicable
from fedspill.core.inputs import ImageSpec, image_spec
from fedspill.core.model import BATCH_NORMS, Model
from fedspill.inversion.codebooks.codebook import Codebook, InputCodebook, NoCodebook
from fedspill.inversion.network.trace import Step
from fedspill.inversion.representations.autoencoder.encoder import steps_before, with_encoder

PASSING = (nn.ReLU, nn.LeakyReLU)
"""Layers that hand on what is above 0."""
MARGIN = 0.5
"""By how much more than the lowest public component all of them are raised."""
DEVIATIONS = 8.0
"""Standard deviations by which they are raised at least, as few public images show no extremes."""
MOST = 5000
"""Public images that say how blocks vary."""
NUMBERS = 2**25
"""Of all these images together, 256 MB in float64: large ones have many blocks each."""
LEAST = 8
"""Public images without which nothing is measured."""


@dataclass(frozen=True)
class Stage:
    """One convolution: blocks x of its input to V^T (x - mean) + shift.

    Attributes:
        side: of a block.
        mean: of blocks, float64; a block is flattened as (channel, row, column).
        basis: V, orthonormal columns, those of the largest variance first.
        shift: by which no component falls below 0.
        channels: that the convolution puts out, those behind the components are 0.
    """

    side: int
    mean: Float[Tensor, " block"]
    basis: Float[Tensor, "block kept"]
    shift: Float[Tensor, " kept"]
    channels: int

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n o h2 w2"]:
        """What the convolution and the ReLU behind it make of an input, in float64."""
        blocks = functional.pixel_unshuffle(x, self.side)
        kept = torch.einsum("nbhw,bk->nkhw", blocks - self.mean[:, None, None], self.basis)
        maps = (kept + self.shift[:, None, None]).clamp_min(0)
        return functional.pad(maps, (0, 0, 0, 0, 0, self.channels - len(self.shift)))

    def back(self, maps: Float[Tensor, "n o h2 w2"]) -> Float[Tensor, "n c h w"]:
        """The input, without the components that were not handed on."""
        kept = maps[:, : len(self.shift)] - self.shift.to(maps)[:, None, None]
        blocks = torch.einsum("nkhw,bk->nbhw", kept, self.basis.to(maps)) + self.mean.to(maps)[:, None, None]
        return functional.pixel_shuffle(blocks, self.side)

    def kernel(self, size: tuple[int, ...], padding: tuple[int, ...]) -> Float[Tensor, "o c k l"]:
        """The convolution's weight: the components in the part of the kernel that covers a block."""
        channels = len(self.mean) // self.side**2
        whole = self.mean.new_zeros(self.channels, channels, *size)
        top, left = padding
        rows, columns = slice(top, top + self.side), slice(left, left + self.side)
        whole[: len(self.shift), :, rows, columns] = self.basis.T.view(-1, channels, self.side, self.side)
        return whole

    def bias(self) -> Float[Tensor, " o"]:
        """The convolution's bias."""
        return functional.pad(self.shift - self.mean @ self.basis, (0, self.channels - len(self.shift)))


@dataclass(frozen=True)
class ComponentView:
    """The images behind latents of such an encoder.

    Attributes:
        stages: in the order of the network.
        shape: of one latent before it is flattened.
        spec: of the images.
        whole: what the readout finds of a latent is whole, though of the image it is not.
    """

    stages: tuple[Stage, ...]
    shape: tuple[int, ...]
    spec: ImageSpec
    whole: bool = field(default=True, init=False)

    @property
    def codebook(self) -> Codebook:
        """That of pictures, where there is no stage, so that latents are pictures."""
        return NoCodebook() if self.stages else InputCodebook(self.spec)

    def inputs(self, features: Float[Tensor, "m f"]) -> Tensor:
        """Images inside their bounds."""
        return by_rows(self._images, features)

    def _images(self, features: Tensor) -> Tensor:
        x = features.view(-1, *self.shape)
        for stage in reversed(self.stages):
            x = stage.back(x)
        return self.spec.decode(x)


def component_encoder(model: Model, at: str, public: Float[Tensor, "n c h w"]) -> tuple[Model, ComponentView]:
    """The model whose layers before `at` hand on principal components, and the way back.

    Args:
        model: stays as it is.
        at: name of the layer that gets the latents.
        public: images as people see them, which are no client's.

    Raises:
        NotApplicable: the layers before `at` are no chain of convolutions with ReLUs, a convolution leaves out pixels
            or has no bias, or there are too few public images.
    """
    spec, units = image_spec(model.input), _units(model, at)
    if units and len(public) < LEAST:
        raise NotApplicable(f"components need at least {LEAST} public images, got {len(public)}")
    used = public[: min(MOST, max(LEAST, NUMBERS // public[0].numel()))] if len(public) else public
    x = spec.encode(used.to(model.like.device, torch.float64))
    stages, encoder = list[Stage](), dict[str, Tensor]()
    for unit in units:
        stages.append(_stage(unit, x))
        encoder |= _parameters(unit, stages[-1], model)
        x = stages[-1].forward(x)
    return with_encoder(model, encoder), ComponentView(tuple(stages), tuple(x.shape[1:]), spec)


@dataclass(frozen=True)
class _Unit:
    """A convolution and the normalisation behind it, if there is one."""

    convolution: Step
    norm: Step | None


def _units(model: Model, at: str) -> list[_Unit]:
    steps = [s for s in steps_before(model, at) if not s.passes()]
    if broken := next((s for s in steps if not s.linked), None):
        raise NotApplicable(f"what enters {broken.describe()} is not what the layer before it puts out")
    units = list[_Unit]()
    for before, step in zip([None, *steps], steps, strict=False):
        if isinstance(step.module, nn.Conv2d):
            _check_convolution(step)
            units.append(_Unit(step, None))
        elif isinstance(step.module, BATCH_NORMS) and before is not None and units and units[-1].convolution is before:
            units[-1] = _Unit(before, step)
        elif not isinstance(step.module, PASSING):
            raise NotApplicable(f"{step.describe()} does not hand components on")
    for unit in units:
        _check_parameters(unit, model)
    if len({u.convolution.name for u in units}) < len(units):
        raise NotApplicable("a convolution is called twice, so that it cannot hand on two inputs' components")
    return units


def _check_convolution(step: Step) -> None:
    layer = step.module
    assert isinstance(layer, nn.Conv2d)
    side, padding = layer.stride[0], layer.padding
    plain = layer.groups == 1 and set(layer.dilation) == {1} and len(set(layer.stride)) == 1
    if not plain or isinstance(padding, str):
        raise NotApplicable(f"{step.describe()} has groups, a dilation, unequal strides or padding by a word")
    tiled = all(i == side * o for i, o in zip(step.input_shape[1:], step.output_shape[1:], strict=True))
    if not tiled or any(p + side > k for p, k in zip(padding, layer.kernel_size, strict=True)):
        raise NotApplicable(
            f"the kernels of {step.describe()} do not cover blocks of {side}x{side} that fill its input"
        )


def _check_parameters(unit: _Unit, model: Model) -> None:
    step = unit.norm or unit.convolution
    if step.parameter("bias") is None:
        raise NotApplicable(f"{step.describe()} has no bias, so that a ReLU would cut components off")
    if unit.norm is not None and (model.training or f"{unit.norm.name}.running_mean" not in model.buffers):
        raise NotApplicable(f"{unit.norm.describe()} uses the statistics of a batch")
    for name in (s.parameter(k) for s in (unit.convolution, step) for k in ("weight", "bias")):
        if name in model.frozen:
            raise NotApplicable(f"{name} is frozen: clients have it already")


def _stage(unit: _Unit, x: Float[Tensor, "n c h w"]) -> Stage:
    layer = unit.convolution.module
    assert isinstance(layer, nn.Conv2d)
    blocks = functional.pixel_unshuffle(x, layer.stride[0]).transpose(0, 1).flatten(1)
    mean = blocks.mean(1)
    values, vectors = torch.linalg.eigh((blocks - mean[:, None]).cov(correction=0))
    basis = vectors[:, values.argsort(descending=True)[: layer.out_channels]]
    components = basis.T @ (blocks - mean[:, None])
    shift = torch.maximum(-(1 + MARGIN) * components.amin(1), DEVIATIONS * components.std(1, correction=0))
    return Stage(layer.stride[0], mean, basis, shift, layer.out_channels)


def _parameters(unit: _Unit, stage: Stage, model: Model) -> dict[str, Tensor]:
    layer, names = unit.convolution.module, (unit.convolution.parameter("weight"), unit.convolution.parameter("bias"))
    assert isinstance(layer, nn.Conv2d)
    assert isinstance(layer.padding, tuple)
    weight, bias = stage.kernel(layer.kernel_size, layer.padding), stage.bias()
    made = {names[0]: weight, names[1]: bias if unit.norm is None else torch.zeros_like(bias)}
    if unit.norm is not None:
        made |= _neutral(unit.norm, bias, model)
    return {name: value for name, value in made.items() if name is not None}


def _neutral(norm: Step, bias: Tensor, model: Model) -> dict[str | None, Tensor]:
    """A normalisation that takes nothing off by its running statistics, and adds the bias."""
    held = norm.module
    assert isinstance(held, BATCH_NORMS)
    mean, variance = (model.buffers[f"{norm.name}.running_{k}"].to(bias) for k in ("mean", "var"))
    return {
        norm.parameter("weight"): (variance + held.eps).sqrt(),
        norm.parameter("bias"): mean + bias,
    }
