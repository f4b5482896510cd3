"""What an update says of one layer.

- `mean`: the mean gradient behind an update of either kind.
- `layer`: one layer's mean gradient, its rows, and their rounding.
- `rounding`: the error that a recovered gradient has from being the difference of rounded parameters.
- `linear`: what rows of a linear layer leak: weight gradient over bias gradient.
- `head`: the classification layer's gradient and the weights that it was taken at.
- `firing`: which units fired.
"""
