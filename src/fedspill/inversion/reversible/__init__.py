"""Networks whose features tell their input: reversible blocks, run backwards from the classification layer.

Geiping et al., "Inverting Gradients", NeurIPS 2020, arXiv 2003.14053, appendix A.1.

- `blocks`: a network of such blocks, and its input by its features.
- `reading`: the pictures behind the classification layer's gradient, and what confirms them.
"""
