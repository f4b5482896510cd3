"""Classification heads that leak representations.

Dabholkar et al. 2025 (Maui, arXiv 2509.11451), section 5.2.2.

- `weights`: the kinds of heads, and their files.
- `settings`: hyperparameters of SpAB training.
- `spab_training`: SpAB: the training for sparse, balanced activations.
- `making`: the head that a server sends.
"""
