"""Label inference.

Zhao et al. 2020 (iDLG, arXiv 2001.02610); Yin et al. 2021 (2104.07586); Wainakh et al. 2021 (LLG, 2105.09369).

- `methods`: one function per method, and which is the default.
- `probe`: the head's answer to inputs that the server makes up.
- `self_consistent`: counts that explain the gradient that they predict.
- `known`: granted labels, else inferred ones, for readouts.
"""
