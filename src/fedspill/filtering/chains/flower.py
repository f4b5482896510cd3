"""A list of Flower's client mods, called as a ClientApp calls them: the first is outermost.

Beutel et al., "Flower", 2020, arXiv:2007.14390; mods as of flwr 1.28 and later (`flwr.app` from 1.42 on). A mod is a
function of a message, a context and what comes behind it; the innermost is a client that answers with the weights
after training.
"""

import importlib
import inspect
import logging
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np

from fedspill.core.errors import BadInput
from fedspill.core.files.contents import as_tensor
from fedspill.core.libraries.named import named
from fedspill.core.types import Params
from fedspill.filtering.chains.chain import Chain, Declared, Offer, Refused, Unit, reason
from fedspill.filtering.chains.own import array_of, made

PACKAGE = "flwr"
ARRAYS, CONFIG, METRICS = "arrays", "config", "metrics"
CLIP_KEY = "clipping_norm"
"""Under which Flower's server hands a norm to `fixedclipping_mod` and `adaptiveclipping_mod`."""
CLIENT_SIDE = ("fixedclipping_mod", "adaptiveclipping_mod")
USUAL_CLIP = 1.0


@dataclass(frozen=True)
class FlowerChain:
    """Mods around a client that sends what it is told to.

    Attributes:
        name: of the list, for a reader.
        mods: the first is outermost.
        clip: the norm that the server asks for; None takes 1 where a mod wants one.
        make: the list once more.
        state: what a context keeps from round to round.
    """

    name: str
    mods: tuple[Any, ...]
    clip: float | None = None
    make: Callable[[], Sequence[Any]] | None = None
    state: dict[str, Any] = field(default_factory=dict[str, Any])
    carries_weights: bool = True
    computes: bool = False
    unit: Unit = "update"

    @property
    def steps(self) -> tuple[str, ...]:
        """The mods by name."""
        return tuple(_name(mod) for mod in self.mods)

    @property
    def asked(self) -> float:
        """The norm that the server asks for."""
        return USUAL_CLIP if self.clip is None else self.clip

    @property
    def declared(self) -> Declared:
        """What `LocalDpMod` was made with, or what the server asks of the clipping mods."""
        for mod in self.mods:
            if _name(mod) == "LocalDpMod":
                return _local_dp(mod)
        if any(step in CLIENT_SIDE for step in self.steps):
            return Declared(clip=self.asked, elsewhere="Flower's server, where its strategy is wrapped for it")
        return Declared()

    def send(self, offer: Offer) -> Params | None:
        """See `Chain`."""
        app = _app()
        request = _request(app, offer, self.asked if any(s in CLIENT_SIDE for s in self.steps) else self.clip)
        call: Callable[[Any, Any], Any] = partial(_trained, offer)
        for mod in reversed(self.mods):
            call = partial(_through, mod, call)
        logging.getLogger(PACKAGE).setLevel(logging.WARNING)  # a line for every push otherwise
        try:
            reply = call(request, self._context(app))
        except Exception as error:  # of a mod of anyone's
            raise Refused(reason(error)) from error
        if reply.has_error():
            raise Refused(str(reply.error.reason)[:200])
        return _change(reply, offer)

    def _context(self, app: Any) -> Any:
        if "context" not in self.state:
            self.state["context"] = app.Context(
                run_id=1, node_id=2, node_config={}, state=app.RecordDict(), run_config={}
            )
        return self.state["context"]

    def renewed(self) -> Chain | None:
        """The list made once more, if that gives other mods."""
        if self.make is None:
            return None
        again = _checked(self.make(), self.name)
        same = any(mod is old and not _is_plain(mod) for mod, old in zip(again, self.mods, strict=False))
        return None if same else FlowerChain(self.name, again, self.clip, self.make)


def _is_plain(mod: Any) -> bool:
    return hasattr(mod, "__code__")


def _through(mod: Any, call: Callable[[Any, Any], Any], message: Any, context: Any) -> Any:
    return mod(message, context, call)


def _trained(offer: Offer, message: Any, context: Any) -> Any:
    """The innermost client: the weights that it received, changed by what is offered."""
    app = _app()
    after = app.ArrayRecord({k: app.Array(array_of(v + offer.change[k])) for k, v in _before(offer).items()})
    metrics = app.MetricRecord({"num-examples": len(offer.batch)})
    return app.Message(content=app.RecordDict({ARRAYS: after, METRICS: metrics}), reply_to=message)


def _request(app: Any, offer: Offer, clip: float | None) -> Any:
    sent = app.ArrayRecord({k: app.Array(array_of(v)) for k, v in _before(offer).items()})
    config: dict[str, Any] = {"server-round": offer.round}
    config |= {} if clip is None else {CLIP_KEY: float(clip)}
    content = app.RecordDict({ARRAYS: sent, CONFIG: app.ConfigRecord(config)})
    return app.Message(content=content, metadata=_metadata(app, offer.round))


def _metadata(app: Any, number: int) -> Any:
    """As a SuperLink fills it in; written out, because Flower takes a run's number from its own process otherwise."""
    said = {
        "run_id": 1,
        "message_id": str(number),
        "src_node_id": 1,
        "dst_node_id": 2,
        "reply_to_message_id": "",
        "group_id": str(number),
        "created_at": time.time(),
        "ttl": 3600.0,
        "message_type": app.MessageType.TRAIN,
        "src_task_id": 1,
        "dst_task_id": 2,
    }
    known = inspect.signature(app.Metadata).parameters
    return app.Metadata(**{k: v for k, v in said.items() if k in known})


def _before(offer: Offer) -> Params:
    return {k: offer.received[k] for k in offer.change}


def _change(reply: Any, offer: Offer) -> Params | None:
    records = list(reply.content.array_records.values())
    if not records:
        return None
    like = next(iter(offer.change.values()))
    after = {k: as_tensor(v.numpy(), f"the reply: {k!r}") for record in records for k, v in record.items()}
    return {k: _difference(v.to(like.device), offer, k) for k, v in after.items()}


def _difference(after: Any, offer: Offer, name: str) -> Any:
    before = offer.received.get(name)
    return after if before is None or before.shape != after.shape else after - before


def _local_dp(mod: Any) -> Declared:
    sensitivity, epsilon, delta = (float(getattr(mod, name)) for name in ("sensitivity", "epsilon", "delta"))
    known = epsilon > 0 and 0 < delta < 1.25
    noise = sensitivity * float(np.sqrt(2 * np.log(1.25 / delta))) / epsilon if known else None
    return Declared(clip=float(mod.clipping_norm), noise=noise, epsilon=epsilon, delta=delta)


def _name(mod: Any) -> str:
    return str(getattr(mod, "__name__", type(mod).__name__))


def read_mods(name: str, clip: float | None) -> FlowerChain:
    """The chain of `package.module:mods`, a list of mods or a function that gives one.

    Args:
        clip: the norm that the server asks for.

    Raises:
        BadInput: there is no such list; or Flower is not installed.
    """
    if find_spec(PACKAGE) is None:
        raise BadInput(f"{name!r} needs Flower, whose mods it lists; install it: pip install 'fedspill[flower]'")
    found, make = made(named(name, "chain", "mods"), name)
    again = make or partial(_reloaded, name)
    return FlowerChain(name, _checked(found, name), clip, again)


def _reloaded(name: str) -> Any:
    module, _, attribute = name.partition(":")
    found: Any = importlib.reload(sys.modules[module])
    for step in attribute.split("."):
        found = getattr(found, step)
    return found


def _checked(found: object, name: str) -> tuple[Any, ...]:
    if not isinstance(found, Sequence) or isinstance(found, str) or not found or not all(map(callable, found)):
        raise BadInput(f"chain {name!r} is a {type(found).__name__}; a list of Flower mods is needed")
    return tuple(found)


def _app() -> Any:
    return importlib.import_module("flwr.app")
