"""The result filters of a scope of NVFlare's `privacy.json`, run by NVFlare itself.

NVFlare Team, NVIDIA FLARE 2.9, "Data privacy protection": a site's `local/privacy.json` lists scopes, each with
`task_result_filters` that a job's results pass on their way out. PercentilePrivacy (after Shokri and Shmatikov, CCS
2015) and SVTPrivacy are heuristics here: the first draws no noise at all, and the second bounds no client's part in the
number of values that it sends, so neither is a mechanism whose epsilon holds for a client's update.
"""

import copy
import importlib
import json
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fedspill.core.errors import BadInput, some
from fedspill.core.types import Params
from fedspill.filtering.chains.chain import Chain, Declared, Offer, Refused, Unit, reason
from fedspill.filtering.chains.own import as_change, handed

PACKAGE = "nvflare"
STOCK = "nvflare.app_common.filters"
"""Where filters that are given by `name` are looked for."""
HEURISTICS = ("PercentilePrivacy", "SVTPrivacy")
OUTWARD = ("out", "inout")
TASK = "train"


@dataclass(frozen=True)
class Configured:
    """One filter as the file gives it.

    Attributes:
        place: module and class, or the class alone.
        arguments: of its constructor.
    """

    place: str
    arguments: Mapping[str, Any]

    @property
    def label(self) -> str:
        """For a reader."""
        said = ", ".join(f"{k}={v!r}" for k, v in self.arguments.items())
        return f"{self.place.rpartition('.')[2]}({said})"


@dataclass(frozen=True)
class NVFlareChain:
    """Filters of one scope, on a result of kind WEIGHT_DIFF.

    Attributes:
        configured: the filters in their order.
        filters: these, built.
    """

    configured: tuple[Configured, ...]
    filters: tuple[Any, ...]
    carries_weights: bool = False
    computes: bool = False
    unit: Unit = "update"

    @property
    def steps(self) -> tuple[str, ...]:
        """The filters with their arguments."""
        return tuple(c.label for c in self.configured)

    @property
    def declared(self) -> Declared:
        """Which of the filters are heuristics."""
        names = [c.place.rpartition(".")[2] for c in self.configured]
        return Declared(heuristics=tuple(n for n in names if n in HEURISTICS))

    def send(self, offer: Offer) -> Params | None:
        """See `Chain`."""
        dxo, fl_constant, contexts = (_module(f"nvflare.apis.{n}") for n in ("dxo", "fl_constant", "fl_context"))
        data = {k: handed(v, "numpy") for k, v in offer.change.items()}
        result = dxo.DXO(dxo.DataKind.WEIGHT_DIFF, data=data).to_shareable()
        result.set_header(dxo.MetaKey.CURRENT_ROUND, offer.round)
        context = contexts.FLContext()
        try:
            for step in self.filters:
                result = step.process(result, context)
            if result.get_return_code() != fl_constant.ReturnCode.OK:
                raise Refused(f"return code {result.get_return_code()}")
            left = dxo.from_shareable(result)
        except Refused:
            raise
        except Exception as error:  # of a filter of anyone's
            raise Refused(reason(error)) from error
        return None if not left.data else as_change(left.data, offer, "privacy.json")

    def renewed(self) -> Chain:
        """The filters built once more."""
        return NVFlareChain(self.configured, tuple(map(_built, self.configured)))


def read_policy(path: Path, scope: str | None) -> NVFlareChain:
    """The chain of one scope.

    Args:
        scope: its name; None takes the default one, or the only one.

    Raises:
        BadInput: no such file or scope, no result filter, or one that cannot be built; or NVFlare is not installed.
    """
    configured = tuple(filters_of(_chosen(_scopes(path), scope, path), path))
    if not configured:
        raise BadInput(f"{str(path)!r}: this scope has no task_result_filters that act on what leaves the client")
    if find_spec(PACKAGE) is None:
        raise BadInput(
            f"{str(path)!r} needs NVFlare, whose filters it names; install it: pip install 'fedspill[nvflare]'"
        )
    return NVFlareChain(configured, tuple(map(_built, configured)))


def _scopes(path: Path) -> tuple[list[Mapping[str, Any]], object]:
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{str(path)!r} is no JSON file: {reason(error)}") from error
    scopes = content.get("scopes") if isinstance(content, Mapping) else None
    if not isinstance(scopes, list) or not scopes or not all(isinstance(s, Mapping) for s in scopes):
        raise BadInput(f"{str(path)!r} lists no scopes; NVFlare's privacy.json has {{'scopes': [...]}}")
    return scopes, content.get("default_scope")


def _chosen(found: tuple[list[Mapping[str, Any]], object], scope: str | None, path: Path) -> Mapping[str, Any]:
    scopes, default = found
    names = [str(s.get("name")) for s in scopes]
    wanted = scope if scope is not None else default if default is not None else names[0] if len(names) == 1 else None
    if wanted is None:
        raise BadInput(f"{str(path)!r} names no default_scope; name one of {some(names)} with --scope")
    if str(wanted) not in names:
        raise BadInput(f"{str(path)!r} has no scope {wanted!r}; it has {some(names)}")
    return scopes[names.index(str(wanted))]


def filters_of(scope: Mapping[str, Any], path: Path) -> Sequence[Configured]:
    """The filters of a scope that act on what leaves the client.

    Raises:
        BadInput: an entry is none.
    """
    entries: Any = scope.get("task_result_filters", [])
    if not isinstance(entries, list):
        raise BadInput(f"{str(path)!r}: task_result_filters is a {type(entries).__name__}; a list is needed")
    return [_configured(e, path) for e in entries if _acts(e)]


def _acts(entry: Any) -> bool:
    if not isinstance(entry, Mapping):
        return True  # refused where it is read
    return entry.get("disabled") is not True and str(entry.get("direction") or "out").lower() in OUTWARD


def _configured(entry: Any, path: Path) -> Configured:
    place = (entry.get("path") or entry.get("name")) if isinstance(entry, Mapping) else None
    if not isinstance(place, str):
        raise BadInput(f"{str(path)!r}: filter {entry!r} has neither a path nor a name")
    arguments: Any = entry.get("args") or {}
    if not isinstance(arguments, Mapping):
        raise BadInput(f"{str(path)!r}: args of {place!r} are a {type(arguments).__name__}; a mapping is needed")
    return Configured(place, arguments)


def _built(configured: Configured) -> Any:
    try:
        made = _class(configured.place)(**copy.deepcopy(dict(configured.arguments)))
    except BadInput:
        raise
    except Exception as error:  # of a filter of anyone's
        raise BadInput(f"filter {configured.label} cannot be built: {reason(error)}") from error
    if not callable(getattr(made, "process", None)):
        raise BadInput(f"filter {configured.label} is no filter of NVFlare: it has no method `process`")
    return made


def _class(place: str) -> Any:
    module, _, name = place.rpartition(".")
    if module:
        return getattr(importlib.import_module(module), name)
    for found in pkgutil.iter_modules(_module(STOCK).__path__):
        stock = getattr(_module(f"{STOCK}.{found.name}"), name, None)
        if stock is not None:
            return stock
    raise BadInput(f"filter {place!r} is none of {STOCK}; give its path, module and class")


def _module(name: str) -> Any:
    return importlib.import_module(name)
