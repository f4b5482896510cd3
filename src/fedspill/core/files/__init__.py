"""Weights and updates as tools write them: read without unpickling, and put where the model has them.

- `reading`: a file of any of these formats to named tensors.
- `openings`: what the first bytes of a file say that it is.
- `archives`: NumPy archives (`.npz`), member by member.
- `checkpoints`: what `torch.save` wrote, tensors only.
- `records`: Flower's `ArrayRecord` as it is serialised.
- `contents`: Python objects, nested or in a list, to named tensors.
- `numbers`: whole numbers with scales, sparse, quantised and short floats to plain values.
- `names`: which name of a file is which of the model's: prefixes, nests, wrappers, order, tied weights.
- `fitting`: the values for the model, or one line that says what does not fit and why.
"""
