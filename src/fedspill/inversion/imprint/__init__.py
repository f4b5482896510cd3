"""Robbing the Fed: imprint modules, made and read.

Fowl et al., ICLR 2022, arXiv 2110.13057.

- `measurement`: the linear function of the input, and the cutoffs of its bins.
- `rows`: bins as rows of a linear layer.
- `making`: an imprint module for a model.
- `readout`: from the gradient of the module to examples.
- `bins`: differences of neighbouring rows: what each bin holds.
- `contents`: how many examples a bin holds, and which holds one.
- `certificate`: the share that one example sends, as a blind test.
- `peeling`: known examples taken out of the bins that they share.
- `rescaling`: the scale of bins that drifted in local training.
- `views`: from what the module sees to pictures, sentences and rows.
"""
