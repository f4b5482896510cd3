"""From representations to images.

Dabholkar et al. 2025 (Maui, arXiv 2509.11451), Algorithm 1.

- `settings`: hyperparameters.
- `distance`: of representations.
- `search`: images by a deep image prior, pixels, or a decoder.
- `decoder`: a network that answers at once.
- `decoder_training`: its training.
- `candidates`: images of candidates that were read.
"""
