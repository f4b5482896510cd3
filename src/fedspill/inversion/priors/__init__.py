"""Priors on images.

- `total_variation`: total variation (Rudin et al. 1992).
- `batch_statistics`: means and variances at BatchNorm layers (Yin et al. 2021, arXiv 2104.07586).
- `group_consistency`: what searches from several seeds agree on, registered (the same).
- `deep_image_prior`: an untrained U-Net as a prior (Ulyanov et al. 2018, arXiv 1711.10925).
"""
