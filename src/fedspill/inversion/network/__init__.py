"""What a network is made of, and surgery on it.

- `trace`: the chain of operations that torch.fx finds.
- `activations`: activations that can be undone.
- `dense`: the layers of a fully connected network.
- `head`: the classification layer.
- `extractor`: a frozen extractor and its head.
- `layers`: what enters a layer.
- `planting`: a layer put in front of another.
"""
