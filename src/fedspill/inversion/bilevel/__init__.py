"""Parameters that are searched for how well examples are rebuilt from their gradients: a search around a search.

Geiping et al., "Inverting Gradients", NeurIPS 2020, arXiv 2003.14053, appendix A.2, names the idea and builds none.

- `rebuilding`: the inner search, of an example by its gradient, and its derivative by the parameters.
- `search`: the outer search, of parameters on public examples.
"""
