"""Robbing the Fed: imprint modules, made and read.

Fowl et al., ICLR 2022, arXiv 2110.13057.

- `measurement`: the linear function of the input, and the cutoffs of its bins.
- `rows`: bins as rows of a linear layer.
- `making`: an imprint module for a model.
- `readout`: the attack of the server that planted the module: its gradient to examples.
- `contents`: what each bin holds: differences of neighbouring rows.
- `bin_readout`: what is read out of each bin, and whether it is one example alone.
- `certificate`: the share that one example sends, as a blind test.
- `peeling`: known examples taken out of the bins that they share.
- `rescaling`: the scale of bins that drifted in local training.
- `views`: from what the module sees to pictures, sentences and rows.
"""
