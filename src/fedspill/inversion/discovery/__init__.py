"""Planted layers found in a model by its weights alone, and read without the secret of whoever planted them.

- `imprint`: rows of one direction as the bins of an imprint (Fowl et al. 2022, arXiv 2110.13057).
"""
