"""What a network is made of, and surgery on it.

- `trace`: the layers that one forward pass calls, in their order.
- `activations`: activations that can be undone, and their slopes.
- `dense`: the layers of a plain fully connected network.
- `extractor`: a frozen feature extractor and its head.
- `layers`: what enters a layer.
- `weights`: every layer's weights as a matrix, by name.
- `planting`: a layer planted in front of a network or of one of its layers.
- `splitting`: a planted front whose kernels give every client columns of its own.
"""
