"""Local training, differentiable in its inputs: the one implementation that clients and attacks share.

- `steps`: FedSGD and FedAvg, and one step of a client.
- `update`: what a client sends after all steps, and means over clients.
- `path`: where on the path of local training the mean gradient is taken.
"""
