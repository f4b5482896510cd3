"""Networks that hand pixels on: convolutions made identities, so that an imprint or traps sit behind them.

Fowl et al. 2022 (arXiv 2110.13057), section 4; Boenisch et al. 2023 (arXiv 2112.02918), appendix.

- `units`: one convolution, with its BatchNorm and its activation, as an identity.
- `lanes`: parameters that make a plain stack of convolutions hand the picture on.
- `offsets`: which shifted copies of the picture the channels of a strided network carry.
- `resnet`: the parts of a ResNet, found by their names.
- `resnet_lanes`: parameters that make a ResNet hand the picture on to a place inside it.
- `transparent`: a ResNet with everything before a module as an identity for pixels.
- `pixel_map`: which pixel each feature shows, and the pictures behind features.
- `pixels`: values at scattered places, or of windows, interpolated to all pixels.
"""
