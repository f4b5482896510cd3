"""What a server that knows the clients' defence knows of a linear layer's gradient before it.

- `sent`: which entries were sent as they are, how noisy they are, and between what the others lie.
- `low_rank`: a matrix of known rank out of entries that are missing, cut or noisy.
- `completion`: the layers of an update whose gradients have a rank below their size, as they were before the defence.
- `posterior`: the input of one example where values are missing or noisy, shrunk by how little tells it.
"""
