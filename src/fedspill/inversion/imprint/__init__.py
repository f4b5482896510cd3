"""Robbing the Fed: imprint modules, made and read.

Fowl et al., ICLR 2022, arXiv 2110.13057.

- `measurement`: linear functions of an input, and the cutoffs that share their values out to bins.
- `rows`: the bins as rows of a linear layer: all that the server knows of its module.
- `soliton`: rows of an LT code instead of groups of bins.
- `linear_pair`: the bins as parameters of two linear layers that the network has.
- `making`: an imprint from hyperparameters.
- `readout`: the secret that the server keeps, and how it reads the answer.
- `contents`: what each bin holds: differences of neighbouring rows of the gradient, and their rounding.
- `bin_readout`: candidates read out of bins, each bin for itself.
- `certificate`: the share test: whether a candidate would send the number that was observed.
- `peeling`: recognised examples taken out of the bins of the other groups, and least squares over all bins.
- `rescaling`: bins whose sum of derivatives was lost in rounding, as after local training.
- `views`: the inputs behind what the module sees: pictures, sentences and rows.
"""
