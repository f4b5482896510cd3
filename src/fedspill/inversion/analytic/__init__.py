"""Closed forms: inputs read exactly from the gradients of fully connected layers.

Phong et al. 2017 (doi:10.1109/TIFS.2017.2787987); Geiping et al. 2020 (arXiv 2003.14053), proposition 3.1.

- `fully_connected`: the input of a fully connected network from one example, from the logits back.
- `readout`: one input per row of a layer, or one mean per class of the classification layer.
- `candidates`: candidates for the inputs of a layer that saw several examples, and what confirms them.
- `certificate`: blind certificates: the valid range, the update replayed, and the bias gradient of owned rows.
"""
