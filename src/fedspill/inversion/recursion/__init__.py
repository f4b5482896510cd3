"""R-GAP on any graph: one example's activations, read layer by layer from the head to the input.

Zhu and Blaschko, ICLR 2021, arXiv 2010.07733, extended as docs/recursion.md says.

- `graph`: a network as a graph of operations (torch.fx), each run, transposed and, often, undone.
- `facts`: what is known of values and cotangents, and what follows from it.
- `layer_by_layer`: the recursion from the head to the input, and corrections of stray channels.
- `rank`: a convolution's input from its weight's gradient alone, where the picture has few positions.
- `patches`: a convolution's geometry and patches, and how its weight's gradient depends on its input.
- `least_squares`: a layer's input from linear equations: its weight's gradient, and what is known of its output.
- `known_activations`: activations that are known exactly, and how far a picture is from giving them.
"""
