"""Models for scenarios: from a name in a plan, or from a module, to a `Model`.

- `by_name`: the networks by name, and a bare module of the caller's.
- `adapters`: torchvision, timm, transformers, and `package.module:factory`.
- `normalising`: what a network's images are normalised by, as somebody says.
- `options`: what a network's own options are.
- `trained`: trained weights that are shipped, or lie in files.
"""

from fedspill.zoo.models.by_name import Built, Entry, build, built, default_network, listing, of_module
from fedspill.zoo.models.normalising import UnsaidNormalisation, surely_untrained

__all__ = [
    "Built",
    "Entry",
    "UnsaidNormalisation",
    "build",
    "built",
    "default_network",
    "listing",
    "of_module",
    "surely_untrained",
]
