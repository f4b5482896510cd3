"""What the gradient of a convolution's weight says of its input, by the overlaps of neighbouring patches.

- `patches`: a convolution's geometry and patches, and how its weight's gradient depends on its input.
- `maps`: the span of the inputs of a batch, from a weight's gradient alone, where the pictures have few positions.
- `krylov`: the largest eigenvectors of an operator, also where an eigenvalue comes several times.
- `unmixing`: each example's own input out of that span, from what is known of the layers above.
"""
