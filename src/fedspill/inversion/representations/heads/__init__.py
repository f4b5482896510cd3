"""Classification heads that leak representations.

Dabholkar et al. 2025 (Maui, arXiv 2509.11451), section 5.2.2.

- `weights`: the kinds of heads, and their files.
- `spab`: hyperparameters of SpAB training.
- `training`: SpAB: sparse, balanced activations.
- `making`: the head that a server sends.
"""
