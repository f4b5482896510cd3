"""Local training, differentiable in its inputs: the one implementation that clients and attacks share.

- `protocol`: FedSGD and FedAvg: what a client is told to compute; learning rates, orders, draws.
- `optimizers`: SGD, Adam, AdamW, RMSprop, Adagrad as pure functions.
- `conditions`: clipping, precision and augmentation.
- `losses`: cross-entropy with smoothing and weights, focal, binary, squared, mixtures, and functions of one's own.
- `draws`: what a client draws, and what is assumed where that is not known.
- `steps`: one step of a client.
- `update`: what a client sends after all steps, and means over clients.
- `path`: where on the path of local training the mean gradient is taken.
"""
