"""Images behind representations, searched for or given by a trained network.

Dabholkar et al. 2025 (Maui, arXiv 2509.11451), Algorithm 1.

- `settings`: how images are searched for.
- `distance`: how far representations are from those that were read.
- `candidates`: what a search varies: a generator's weights for each image, or the pixels.
- `search`: images whose representations match, side by side (Algorithm 1).
- `decoder`: a network that answers at once.
- `decoder_training`: its training on public images.
- `epochs`: mini-batches of public images, step after step, for every training here.
"""
