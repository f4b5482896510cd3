"""The CIFAR ResNets of He et al. 2015 with parameter-free (option A) shortcuts.

Parameters are named as in the widespread CIFAR-10 checkpoints (Idelbayev, "Proper ResNet implementation for
CIFAR10/CIFAR100 in PyTorch"), so that those load; they expect ImageNet's normalisation.
"""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from fedspill.zoo.networks.resnet import Average


@dataclass(frozen=True)
class ResNetAOptions:
    """The option-A ResNets have no options: their size is their name."""


class BlockA(nn.Module):
    """Two 3x3 convolutions; the shortcut takes every second pixel and pads the new channels with zeros."""

    def __init__(self, inside: int, width: int) -> None:
        super().__init__()
        self.stride = 1 if inside == width else 2
        self.conv1 = nn.Conv2d(inside, width, 3, stride=self.stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.extra = (width - inside) // 2
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(n, inside, h, w) to (n, width, h/stride, w/stride)."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.stride == 2:
            x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.extra, self.extra))
        return self.relu(out + x)


class ResNetA(nn.Module):
    """Three stages of widths 16, 32, 64 with `depth` blocks each; (n, c, h, w) to (n, num_classes)."""

    def __init__(self, channels: int, num_classes: int, depth: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.layer1 = self._stage(16, 16, depth)
        self.layer2 = self._stage(16, 32, depth)
        self.layer3 = self._stage(32, 64, depth)
        self.avgpool = Average()
        self.linear = nn.Linear(64, num_classes)

    @staticmethod
    def _stage(inside: int, width: int, depth: int) -> nn.Sequential:
        return nn.Sequential(BlockA(inside, width), *(BlockA(width, width) for _ in range(depth - 1)))

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(self.avgpool(x))


def resnet_a(shape: tuple[int, int, int], num_classes: int, options: ResNetAOptions, *, depth: int) -> nn.Module:
    """The option-A ResNet of 6 `depth` + 2 layers."""
    del options
    return ResNetA(shape[0], num_classes, depth)
