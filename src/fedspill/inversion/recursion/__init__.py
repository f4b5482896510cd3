"""R-GAP on any graph: one example's activations, read layer by layer from the head to the input.

Zhu and Blaschko, ICLR 2021, arXiv 2010.07733, extended as docs/recursion.md says.

- `graph`: the network as a graph of operations (torch.fx).
- `facts`: what is known of values and cotangents.
- `layer_by_layer`: the recursion, and units that rounding hid.
- `rank`: a layer's input by the rank of its gradient.
- `patches`: patches of a convolution put together to an image.
- `least_squares`: a layer's input by least squares over gradient and outputs.
- `known_activations`: from known activations to the image, by search.
"""
