"""Label inference.

Zhao et al. 2020 (iDLG, arXiv 2001.02610); Yin et al. 2021 (2104.07586); Wainakh et al. 2021 (LLG, 2105.09369).

- `methods`: one function per method, and which is the default.
- `probe`: the network's answers to inputs that the server holds, and labels out of expected counts.
- `self_consistent`: counts from the private examples' own softmax outputs, which the gradient shows.
- `fitted`: labels by what any loss says of every label.
- `scale`: by what an update is a multiple of the mean gradient, as the head tells it.
- `known`: granted labels, else inferred ones, for readouts.
"""
