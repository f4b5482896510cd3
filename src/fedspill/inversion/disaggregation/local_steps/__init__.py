"""Several local steps: the first order is the sum of the examples' gradients; then the whole training is fitted.

The first layer's inputs are the same in every step, so its update holds them, however far its weights move: in the row
space of that update m examples are an m x m matrix, and the client's whole training is one on m inputs instead of
thousands. What is left to find are that matrix, and which example was in which step.

- `orders`: which examples each step takes, and what else they might be.
- `replay`: the clients' training in the row space of the first layer's update.
- `slopes`: its derivative by the inputs.
- `fitting`: Levenberg-Marquardt for the inputs, and the search for the order.
- `readout`: from an update to the inputs, with their certificate.
"""
