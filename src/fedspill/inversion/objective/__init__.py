"""How far a candidate's update is from the observed one, with its derivative.

Geiping et al. 2020 (arXiv 2003.14053), equation 4.

- `distances`: distances between updates, and their gradients.
- `adapted`: the distances of an attacker who knows what the clients did to their update.
- `matching`: the objective, whole or in parts of a batch.
- `autograd`: an objective that brings its own gradient, as a part of a differentiable sum.
- `stacked`: cosine distances to many observed gradients at once.
- `unrolled`: the vector-Jacobian product of many local steps, in the memory of one.
- `surrogate`: local training as one gradient (Zhu et al. 2023, arXiv 2306.00127), corrected by training.
- `ignoring`: parameters that the clients' defences spoil, and that are not matched.
- `memory`: what an evaluation takes, and what fits.
"""
