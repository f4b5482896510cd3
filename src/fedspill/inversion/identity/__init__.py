"""Networks that hand pixels on: convolutions made identities, so that an imprint or traps sit behind them.

Fowl et al. 2022 (arXiv 2110.13057), section 4; Boenisch et al. 2023 (arXiv 2112.02918), appendix.

- `lanes`: channels that carry pixels through a plain network.
- `units`: layers set to the identity.
- `offsets`: constants that keep values in the linear part of an activation.
- `transparent`: a network made linear in its input.
- `resnet`: residual networks made transparent.
- `resnet_lanes`: channels that carry pixels through a residual network.
- `pixel_map`: which pixel stands where in what a layer sees.
- `pixels`: pixels between those that were handed on.
"""
