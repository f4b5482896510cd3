"""How far a candidate's update is from the observed one, with its derivative.

Geiping et al. 2020 (arXiv 2003.14053), equation 4.

- `distances`: cosine and squared distance.
- `matching`: the objective, whole or in parts of a batch.
- `autograd`: values and gradients computed by hand as one autograd function.
- `stacked`: objectives of many updates at once.
- `unrolled`: many local steps, differentiated one at a time.
- `surrogate`: local training as one gradient (Zhu et al. 2023, arXiv 2306.00127), corrected by training.
- `memory`: what an evaluation takes, and what fits.
"""
