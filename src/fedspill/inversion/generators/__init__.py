"""Generators as priors: images searched for as what a network makes of latents.

Jeon, Kim, Lee, Oh, Ok: "Gradient Inversion with Generative Image Prior" (GIAS), NeurIPS 2021, arXiv 2110.14962.

- `generator`: anybody's generator as a function of latents and weights, tried before it is used.
- `training`: a small one, trained on public images.
- `files`: that one as a file.
- `own`: a user's.
- `components`: a linear one, in closed form.
- `search`: latents, weights of the generator, pixels.
"""
