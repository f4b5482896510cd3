"""Maui: intermediate representations read from the gradient of a head, and inverted to images.

Dabholkar et al. 2025, arXiv 2509.11451.

- `two_layer`: the gradient of a head of two layers.
- `readout`: representations out of it.
- `certificate`: whether they explain the gradient, by replaying them.
- `heads/`: heads that leak: random, quantile, SpAB.
- `images/`: from representations to images.
"""
