"""What of a solution may be believed, without the truth.

- `determined`: how far rounding or noise may move each example, by the equations' derivatives.
- `redraws`: the same by solving again with fresh noise of the size that the gradient shows.
- `spaces`: row spaces of a layer's gradient with fresh noise.
- `zeros`: which examples their zeros pin down.
"""
