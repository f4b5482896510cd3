"""fedspill: how much of the clients' private data can be rebuilt from what they send in federated learning."""

from importlib.metadata import version

__version__ = version("fedspill")
