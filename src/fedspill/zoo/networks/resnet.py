"""ResNets with projection shortcuts (He et al., arXiv 1512.03385); parameters named as in torchvision."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

Padding = Literal["zeros", "circular"]


@dataclass(frozen=True)
class ResNetOptions:
    """Options of the ResNets; the registry sets `width` for each name.

    Attributes:
        width: channels of the first stage; each later stage doubles it.
        stem: "cifar" is a 3x3 convolution at full resolution, "imagenet" a 7x7 one of stride 2 and a pool; the
            default is the same for pictures of every size.
        padding: "zeros", or "circular", which makes the convolutions translation equivariant.
    """

    width: int = 64
    stem: Literal["cifar", "imagenet"] = "cifar"
    padding: Padding = "zeros"


class Average(nn.Module):
    """The mean over the picture: (n, c, h, w) to (n, c)."""

    def forward(self, x: Tensor) -> Tensor:
        """Means."""
        return x.mean((2, 3))


def _conv(inside: int, outside: int, size: int, stride: int, padding: Padding) -> nn.Conv2d:
    return nn.Conv2d(inside, outside, size, stride=stride, padding=size // 2, bias=False, padding_mode=padding)


def _shortcut(inside: int, outside: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and inside == outside:
        return None
    return nn.Sequential(_conv(inside, outside, 1, stride, "zeros"), nn.BatchNorm2d(outside))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions."""

    expansion = 1

    def __init__(self, inside: int, width: int, stride: int, padding: Padding) -> None:
        super().__init__()
        self.conv1 = _conv(inside, width, 3, stride, padding)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, 3, 1, padding)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(inside, width, stride)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(n, inside, h, w) to (n, width, h/stride, w/stride)."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3 (which carries the stride) and 1x1 convolutions."""

    expansion = 4

    def __init__(self, inside: int, width: int, stride: int, padding: Padding) -> None:
        super().__init__()
        outside = width * self.expansion
        self.conv1 = _conv(inside, width, 1, 1, "zeros")
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, 3, stride, padding)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = _conv(width, outside, 1, 1, "zeros")
        self.bn3 = nn.BatchNorm2d(outside)
        self.downsample = _shortcut(inside, outside, stride)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(n, inside, h, w) to (n, 4 width, h/stride, w/stride)."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """Stem, stages of `depths` blocks, average over the picture, linear head `fc`.

    Takes (n, c, h, w), returns (n, num_classes).
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        block: type[BasicBlock | Bottleneck],
        depths: tuple[int, ...],
        options: ResNetOptions,
    ) -> None:
        super().__init__()
        width, padding = options.width, options.padding
        large = options.stem == "imagenet"
        self.conv1 = _conv(channels, width, 7 if large else 3, 2 if large else 1, padding)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.pool = _pool(padding) if large else nn.Identity()
        self.stages: list[str] = []
        inside = width
        for number, depth in enumerate(depths):
            outside = width * 2**number
            strides = [1 if number == 0 else 2] + [1] * (depth - 1)
            blocks: list[nn.Module] = []
            for stride in strides:
                blocks.append(block(inside, outside, stride, padding))
                inside = outside * block.expansion
            self.stages.append(f"layer{number + 1}")
            self.add_module(self.stages[-1], nn.Sequential(*blocks))
        self.avgpool = Average()
        self.fc = nn.Linear(inside, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.pool(self.relu(self.bn1(self.conv1(x))))
        for name in self.stages:
            x = self.get_submodule(name)(x)
        return self.fc(self.avgpool(x))


def _pool(padding: Padding) -> nn.Module:
    # MaxPool2d pads with minus infinity; padded explicitly, it sees the far edge instead.
    if padding == "circular":
        return nn.Sequential(nn.CircularPad2d(1), nn.MaxPool2d(3, 2))
    return nn.MaxPool2d(3, 2, padding=1)


def resnet(
    shape: tuple[int, int, int],
    num_classes: int,
    options: ResNetOptions,
    *,
    block: type[BasicBlock | Bottleneck] = BasicBlock,
    depths: tuple[int, ...] = (2, 2, 2, 2),
) -> nn.Module:
    """A ResNet for images of `shape` (c, h, w)."""
    return ResNet(shape[0], num_classes, block, depths, options)
