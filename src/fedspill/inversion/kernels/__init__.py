"""Fast evaluation of what gradient matching needs: ghost inner products and Winograd convolutions.

Goodfellow 2015 (arXiv 1510.01799) and Li et al. 2022 (2110.05679); Lavin and Gray 2016 (1509.09308), Winograd.

- `products`: inner products of a gradient with an observed one and with itself, from its factors where that is cheaper.
- `ghost_layers`: layers that tell these products of their weights' gradients.
- `ghost_network`: the cosine distance of candidates' gradients, out of what a network's layers tell.
- `convolution`: convolutions whose second derivatives compute nothing that is not asked for.
- `winograd`: 3x3 convolutions by Winograd's minimal filtering.
- `winograd_network`: a network whose 3x3 convolutions use it.
"""
