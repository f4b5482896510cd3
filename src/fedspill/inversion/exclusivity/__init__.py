"""Neuron exclusivity (NEX): batches read from units that one example alone activates.

Pan et al., USENIX Security 2022, arXiv 2010.13356.

- `clusters`: units whose columns of the last weight's gradient point the same way.
- `candidates`: inputs of the last hidden layer, out of the clusters.
- `certificate`: whether the network itself confirms a candidate, judged without the truth.
- `readout`: the examples behind the gradient: candidates, certificate, earlier layers.
- `multiples`: reading a gradient that was clipped or scaled, by one factor for all shares.
- `dense_end`: the linear layers with ReLUs that a network ends in, forwards and backwards.
- `single_layer`: features behind a single linear layer that a ReLU feeds.
- `earlier_layers`: the way back from the last hidden layer's inputs to those of the first.
"""
