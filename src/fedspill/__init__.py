"""fedspill: how much of the clients' private data can be rebuilt from what they send in federated learning."""

__version__ = "0.1.0"
