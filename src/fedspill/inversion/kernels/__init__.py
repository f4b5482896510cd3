"""Fast evaluation of what gradient matching needs: ghost inner products and Winograd convolutions.

Goodfellow 2015 (arXiv 1510.01799); Lavin and Gray 2016 (arXiv 1509.09308).

- `products`: inner products of gradients from what layers see and send back.
- `ghost_layers`: layers that give them.
- `ghost_network`: a network of such layers.
- `convolution`: convolutions and their derivatives.
- `winograd`: Winograd's minimal filtering.
- `winograd_network`: a network whose 3x3 convolutions use it.
"""
