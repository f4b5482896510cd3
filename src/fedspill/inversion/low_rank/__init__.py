"""Batches out of the first fully connected layer, whose gradient has as many dimensions as there are examples.

SPEAR: Dimitrov, Baader, Müller, Vechev, NeurIPS 2024, arXiv 2403.03945; Cocktail Party: Kariyappa et al., ICML 2023,
arXiv 2209.05578. The gradient of n examples is a product of a tall and
a wide factor of rank n, known up to an n x n matrix; each of its columns is told by the rows where its unit is off.

- `factors`: the two factors, their rank and their noise, from the spectrum alone.
- `columns`: where a column vanishes, whether the half-space of its input agrees, and which columns are settled.
- `sampling`: the paper's search: null vectors of random rows, kept if they vanish elsewhere, chosen greedily.
- `half_spaces`: a search in polynomial time (ours): all columns at once by reweighted least squares over the rows that
  the layer's own weights say are off.
- `certificate`: which examples the network itself confirms.
- `readout`: the examples behind the gradient.
- `demixing`: the examples of a batch out of all its MixUp mixtures, by the soft targets that the head's gradient holds.
- `unmixing`: Cocktail Party: separation by the statistics of the inputs alone.
"""
