"""Maui: intermediate representations read from the gradient of a head, and inverted to images.

Dabholkar et al. 2025, arXiv 2509.11451.

- `two_layer`: a head of two linear layers as numbers, and its gradient.
- `readout`: representations out of the gradient of the head's first layer.
- `certificate`: whether what a row shows, passed through the head, gives the row's gradient.
- `heads/`: heads that leak representations: plain, random, quantile-bias, SpAB.
- `autoencoder/`: encoders that hand images on, and their decoders (Scale-MIA).
- `images/`: images behind representations.
"""
