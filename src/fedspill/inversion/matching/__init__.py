"""Gradient matching: what is assumed of the clients, the search for it, and its outcome.

Zhu et al. 2019 (DLG, arXiv 1906.08935); Geiping et al. 2020 (Inverting Gradients, 2003.14053).

- `hypotheses`: what must be guessed: number of examples, labels, local steps.
- `forward_model`: a hypothesis with what its search compares.
- `recursive_reading`: what one example's gradient tells exactly, before any search.
- `told_apart`: a batch told apart at the head, before any search.
- `batch_reading`: this and the layers below, read once for all attacks that go on from there.
- `known_targets`: the search that goes on with what was read of each example of a batch.
- `newton`: a picture near the right one, made exact by least squares on its whole gradient.
- `many_updates`: searches of many jobs under one watch, those that are alike in stacks.
- `quality`: how good a search seems to be, without the truth.
- `outcome`: the best iterate as a reconstruction.
- `deep_leakage`: what DLG and iDLG share.
"""
