"""Neuron exclusivity (NEX): batches read from units that one example alone activates.

Pan et al., USENIX Security 2022, arXiv 2010.13356.

- `clusters`: ratios of gradients that units share.
- `candidates`: candidate examples and their units.
- `certificate`: whether the candidates explain the gradient.
- `readout`: the whole attack, candidates to inputs.
- `dense_end`: the fully connected end of a network.
- `single_layer`: networks whose end is one layer.
- `earlier_layers`: back through the layers before the last hidden one.
"""
