"""Networks in which every example of a batch has weights of its own, so that no two meet in one gradient.

Geiping et al., "Inverting Gradients", NeurIPS 2020, arXiv 2003.14053, appendix A.1.

- `bank`: a network with a small model beside it for every place of a batch.
- `reading`: the examples by the gradients of those models, and what confirms them.
"""
