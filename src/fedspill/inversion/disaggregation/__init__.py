"""Softmax disaggregation: every example's features and probabilities out of the mean gradient of a linear head.

The head's gradient is (P - Y)^T [H, 1] / B, where the probabilities P follow from the features H by weights that are
known. Its row space holds the features, so that one B x B matrix is left to be solved for: own method, docs/batches.md.

- `readout`: `disaggregate`, from the head's gradient and labels to the examples; without labels, too.
- `errors`: what a loss makes of probabilities and a label: plain, smoothed or weighted cross-entropy.
- `silent`: how many examples speak, and how much is noise, by the spectrum of the gradient.
- `labels`: which labels are tried where none were granted, and which of them speak.
- `system`: the equations.
- `starts`: first guesses of the mixing.
- `point`: what the equations miss at a guess, and what a step changes of it.
- `solving`: Levenberg-Marquardt, of many starts at once.
- `dense`: its step by the normal equations, for small batches.
- `matrix_free`: its step by conjugate gradients, for large ones.
- `certificate/`: what of a solution may be believed.
- `fully_connected`: from features down to the input of a fully connected network.
- `local_steps/`: the same behind several steps of local training.
"""
