"""Closed forms: inputs read exactly from the gradients of fully connected layers.

Phong et al. 2017 (doi:10.1109/TIFS.2017.2787987); Geiping et al. 2020 (arXiv 2003.14053), proposition 3.1.

- `fully_connected`: networks of fully connected layers, from the logits back to the input.
- `readout`: one input per row of a layer, or one mean per class of the classification layer.
- `candidates`: candidate inputs out of the rows of a layer.
- `certificate`: whether a candidate is one example alone, judged without the truth.
"""
