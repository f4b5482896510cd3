"""The self-check of how a network is fed: what it makes of the private examples, and what its weights suggest.

- `check`: loss and accuracy on the private examples, and a warning where they do not fit the weights.
- `answers`: what a network says of examples, one by one.
- `weights`: whether weights look trained, and whether the first BatchNorm sees what it was trained on.
- `alternatives`: the usual ways of feeding pictures.
- `evidence`: when another way of feeding is better by more than luck.
"""

from fedspill.auditing.feeding.check import MOST_MEASURED, check_feeding

__all__ = ["MOST_MEASURED", "check_feeding"]
