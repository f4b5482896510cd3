"""Data for scenarios: from a name in a plan, or from what a caller holds, to a pool of examples.

- `by_name`: the sources by name; nothing is ever downloaded.
- `pool`: the pool itself, made from tensors, rows or tokens.
- `anything`: what a caller holds: pairs, lists, data sets, data loaders.
- `items`: one example of those.
- `factory`: the user's own `package.module:factory`.
- `indices`: "0-9,20" in plans.
- `cut`: a pool into the batches of clients.
- `sources/`: one file per kind of source.
"""

from fedspill.zoo.data.anything import from_dataset, pool_of
from fedspill.zoo.data.by_name import Entry, Keys, listing, load, takes
from fedspill.zoo.data.pool import DataPool, from_rows, from_tensors, from_tokens, shared_examples

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
    "pool_of",
    "shared_examples",
    "takes",
]
