"""Priors on images.

- `total_variation`: total variation (Rudin et al. 1992).
- `deep_image_prior`: an untrained U-Net as a prior (Ulyanov et al. 2018, arXiv 1711.10925).
"""
