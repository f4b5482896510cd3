"""R-GAP on any graph: activations, read layer by layer from the head to the input, of one example or of a batch.

Zhu and Blaschko, ICLR 2021, arXiv 2010.07733, extended as docs/recursion.md says.

- `graph`: a network as a graph of operations (torch.fx), each run, transposed and, often, undone.
- `facts`: what is known of values and cotangents, and what follows from it.
- `layer_by_layer`: the recursion from the head to the input.
- `equations/`: a layer's input as the unknown of linear equations.
- `mixing`: how a batch's maps are mixed, told by the gradients of all layers above them at once.
- `firing`: units of which rounding hides whether they fire, told by the gradient.
- `known_activations`: activations that are known exactly, and how far a picture is from giving them.
- `single_head`: the last layer's input and cotangents, of one example, also without a bias.
- `chain`: the recursion as published: a chain of layers, each by both kinds of constraints at once.
- `rank_analysis`: of every layer, how much of its input the constraints determine.
- `batch`: a batch's pictures, once each example's features at the head are known.
"""
