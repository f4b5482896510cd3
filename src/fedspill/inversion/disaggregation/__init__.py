"""Softmax disaggregation: every example's features and probabilities out of the mean gradient of a linear head.

The head's gradient is (P - Y)^T [H, 1] / B, where the probabilities P follow from the features H by weights that are
known. Its row space holds the features, so that one B x B matrix is left to be solved for: own method, docs/batches.md.

- `readout`: `disaggregate`, from the head's gradient and labels to the examples.
- `errors`: what a loss makes of probabilities and a label: plain, smoothed or weighted cross-entropy.
- `system`: the equations, and what they and their derivatives are at given mixings.
- `silent`: how many examples speak, by the spectrum of the gradient.
- `starts`: first guesses of the mixing.
- `solving`: Levenberg-Marquardt, of many starts at once.
"""
