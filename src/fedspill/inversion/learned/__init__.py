"""Learned inversion: a network that is trained on simulated updates of public examples gives the examples behind one.

Wu, Chen, Guo and Weinberger: "Learning To Invert: Simple Adaptive Attacks for Gradient Inversion in Federated
Learning", UAI 2023, arXiv 2210.10880.

- `pairs`: public examples in batches, and the updates that simulated clients send of them.
- `features`: an update as some thousand numbers.
- `assignment`: the squared error under the best order of a batch's examples.
- `linear`: ridge regression, which a network may start from.
- `network`: the fully connected network.
- `training`: of it, with examples held out.
- `readout`: the whole method on one update.
"""
