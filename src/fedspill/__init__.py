"""fedspill: how much of the clients' private data can be rebuilt from what they send in federated learning.

    import fedspill

    result = fedspill.audit("plan.toml")
    rebuilt = fedspill.attack(update, model, num_examples=8)
    findings = fedspill.vet(model)

Names are loaded when they are first used (PEP 562; their homes stand in `__init__.pyi`), so that importing fedspill
costs nothing.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
