"""Per-channel mean and standard deviation of data sets, for pixels in [0, 1]."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Statistics:
    """One value per channel, or one for all."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


CIFAR10 = Statistics((0.49147, 0.48226, 0.44677), (0.24703, 0.24349, 0.26159))
CIFAR100 = Statistics((0.50716, 0.48669, 0.44120), (0.26733, 0.25644, 0.27615))
"""Of the training sets; Geiping et al. 2020 (arXiv 2003.14053), the authors' code."""

IMAGENET = Statistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""torchvision's; also what the option-A CIFAR checkpoints were trained with."""

PLAIN = Statistics((0.5,), (0.25,))
"""For data without constants of its own: round numbers, measured on nobody's images."""

IDENTITY = Statistics((0.0,), (1.0,))
"""No normalisation, as in DLG."""
