"""Data for scenarios: from a name in a plan, or from what a caller holds, to a pool of examples.

- `by_name`: the sources by name; nothing is ever downloaded.
- `pool`: the pool itself, made from tensors, rows, tokens or a torch dataset.
- `indices`: "0-9,20" in plans.
- `cut`: a pool into the batches of clients.
- `sources/`: one file per kind of source.
"""

from fedspill.zoo.data.by_name import Entry, Keys, listing, load, takes
from fedspill.zoo.data.pool import DataPool, from_dataset, from_rows, from_tensors, from_tokens, shared_examples

__all__ = [
    "DataPool",
    "Entry",
    "Keys",
    "from_dataset",
    "from_rows",
    "from_tensors",
    "from_tokens",
    "listing",
    "load",
    "shared_examples",
    "takes",
]
