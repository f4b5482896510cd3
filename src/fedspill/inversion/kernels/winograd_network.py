"""A network whose 3x3 convolutions go by Winograd's method where that is cheaper; the function stays the same."""

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedspill.core.model import Model
from fedspill.core.module.twins import copied
from fedspill.inversion.kernels.winograd import best_tile, convolve

LARGE = 1 << 20
"""Parameters of a network from which on another arithmetic pays for its own calls (measured)."""
VIEW = "view size is not compatible"
"""What PyTorch says of pictures in another layout in memory than a network counts on."""


def with_winograd(model: Model, n: int) -> Model:
    """The model in another arithmetic, equal up to rounding: for a search, not for a client.

    The model itself on a GPU, whose tensor cores are faster, and where the network cannot take pictures that are
    channels last in memory, as the tiles leave them.

    Args:
        n: examples that it will be asked for at once.
    """
    if model.like.is_cuda:
        return model
    module = copied(model.module)
    for layer in module.modules():
        if type(layer) is nn.Conv2d and _can_be_tiled(layer):
            layer.__class__ = WinogradConv2d
    changed = replace(model, module=module)
    return changed if _runs(changed, n) else model


def _runs(model: Model, n: int) -> bool:
    try:
        with torch.no_grad():
            model.logits(model.params, model.like.new_zeros(n, *model.input.encoded_shape))
    except RuntimeError as error:
        if VIEW not in str(error):
            raise
        return False
    return True


def _can_be_tiled(layer: nn.Conv2d) -> bool:
    geometry = (layer.kernel_size, layer.stride, layer.dilation, layer.groups, layer.padding_mode)
    return geometry == ((3, 3), (1, 1), (1, 1), 1, "zeros") and layer.padding in {(0, 0), (1, 1)}


class WinogradConv2d(nn.Conv2d):
    """A 3x3 convolution of stride 1."""

    def forward(self, input: Tensor) -> Tensor:
        """(n, i, h, w) to (n, o, h', w')."""
        padding = self.padding[0]
        assert isinstance(padding, int)
        shape = (input.shape[-2] + 2 * padding - 2, input.shape[-1] + 2 * padding - 2)
        m = best_tile(len(input), shape, self.in_channels, self.out_channels)
        if not m:
            return functional.conv2d(input.contiguous(), self.weight, self.bias, padding=padding)
        y = convolve(input, self.weight, m, padding)
        return y if self.bias is None else y + self.bias[:, None, None]
