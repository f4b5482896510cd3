"""Fishing: a classification head by which few examples of a batch send a gradient, and what is read of these.

Wen, Geiping, Fowl, Goldblum, Goldstein, ICML 2022, arXiv:2202.00580, extended as docs/fishing.md says.

- `heads`: such a head, and what it makes of whoever speaks and whoever is silent.
- `catching`: the mean gradient of those who speak, out of an update.
- `counting`: how many examples of each class a batch holds, by the biases' gradient.
- `cutoffs`: which cutoff along a direction of the features comes next.
- `reading`: pictures from the gradient of those who speak.
- `readout`: the attack that reads the answers to such a head.
"""
