"""Which chain a name stands for.

| CHAIN | is |
|---|---|
| `plan.toml` | the defences of a plan |
| `privacy.json` | the result filters of a scope of NVFlare's policy |
| `package.module:name` | a function of an update, a factory of one, or a list of Flower's mods |
| `flower:package.module:mods` | a list of Flower's mods, or a function that gives one |
| `opacus:package.module:factory` | a client that trains with Opacus |
"""

from pathlib import Path

from fedspill.core.errors import BadInput
from fedspill.core.libraries.named import named
from fedspill.core.model import Model
from fedspill.filtering.chains import flower, nvflare, opacus
from fedspill.filtering.chains.chain import Chain
from fedspill.filtering.chains.own import Numbers, OwnChain, made
from fedspill.filtering.chains.planned import planned
from fedspill.plan.file import read_plan

FORMS = "PLAN.toml, NVFlare's privacy.json, package.module:factory, flower:package.module:mods, opacus:..."


def load_chain(
    name: str, model: Model, *, scope: str | None = None, numbers: Numbers = "torch", clip: float | None = None
) -> Chain:
    """The chain that a name stands for; see the table above.

    Args:
        model: which an Opacus client trains.
        scope: of NVFlare's policy.
        numbers: what a function of the user's own is handed.
        clip: the norm that Flower's server asks of its clipping mods.

    Raises:
        BadInput: it stands for none, or what it needs is not installed.
    """
    kind, _, rest = name.partition(":")
    if kind == "flower" and ":" in rest:
        return flower.read_mods(rest, clip)
    if kind == "opacus" and ":" in rest:
        return opacus.read_client(rest, model)
    if name.endswith(".toml"):
        return planned(read_plan(Path(name)), name)
    if name.endswith(".json"):
        return nvflare.read_policy(Path(name), scope)
    if ":" not in name:
        raise BadInput(f"chain {name!r} is none of {FORMS}")
    return _named(name, numbers, clip)


def _named(name: str, numbers: Numbers, clip: float | None) -> Chain:
    found = named(name, "chain", "factory")
    if isinstance(found, list | tuple):
        return flower.read_mods(name, clip)
    return chain_of(found, name, numbers)


def chain_of(found: object, name: str, numbers: Numbers = "torch") -> Chain:
    """A function of an update, or a factory of one, as a chain.

    Raises:
        BadInput: it is neither.
    """
    if not callable(found):
        raise BadInput(f"chain {name!r} is a {type(found).__name__}; a function of an update, or a factory, is needed")
    function, make = made(found, name)
    if not callable(function):
        raise BadInput(f"chain {name!r}: the factory returned a {type(function).__name__}; a function is needed")
    return OwnChain(name, function, make, numbers)
