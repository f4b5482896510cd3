"""The plan of an audit: TOML or a mapping, checked key by key.

- `sections`: the schema.
- `training`: what its section `client` says of optimisers and schedules.
- `tables`: TOML files and `--set`, as they are written.
- `file`: plans from them, with errors that name the key.
- `values`: FIELD=VALUE pairs.
- `defaults`: what a plan that is silent takes.
- `from_python`: protocols and optimisers that Python states, in a plan's keys.
- `build`: the network and the device that a plan names.

Names are loaded when they are first used (their homes stand in `__init__.pyi`): what is wrong with a file is told
before PyTorch is imported.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
