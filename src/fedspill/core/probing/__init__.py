"""What calling a model tells of it, whatever its code looks like.

- `inputs`: arbitrary inputs of its kind.
- `head`: the layer that makes the logits.
- `mean`: whether the loss of a batch is the mean of its examples' own.
- `state`: whether a network remembers what it was called with.
- `reach`: whether gradients reach the input, and how they do in spite of the network.
"""
