"""As tasks of a Ray cluster: Ray places them by what they ask for and runs them again where a worker dies."""

import importlib
import math
import os
import warnings
from typing import Any

from fedspill.core.errors import BadInput
from fedspill.report.sweep import Outcome
from fedspill.sweeping.engines.engine import Ended, Lost
from fedspill.sweeping.running import run_trial

RETRIES = 3
"""Of a task whose worker dies, by Ray itself."""
PER_PLACE = 2
"""Tasks in Ray's hands for each that can run at a time: enough that no core waits, few enough to be held by a lease."""


class OnRay:
    """Tasks of one core each, at most `PER_PLACE` for each that the cluster can run at a time.

    Args:
        address: of the cluster; None takes the one that the environment names, or else starts one on this machine.
        cpus: of a cluster that is started here; None takes this machine's.
        gpus: share of a GPU that a trial asks for; with device "cuda" 0 is a whole one, with "auto" it is none.
        memory: bytes that a trial asks for; None asks for none.

    Raises:
        BadInput: Ray is not installed, or no cluster answers.
    """

    def __init__(
        self,
        device: str,
        *,
        address: str | None = None,
        cpus: int | None = None,
        gpus: float = 0.0,
        memory: int | None = None,
    ) -> None:
        gpus = 1.0 if device == "cuda" and not gpus else gpus
        # a task that asks for no card must not find one and share it with who knows how many others
        self._ray, self._device = _ray(), "cpu" if device == "auto" and not gpus else device
        self._gpus = gpus
        self._mine = not self._ray.is_initialized()
        if self._mine:
            self._connect(address, cpus)
        asked = {"num_cpus": 1, "num_gpus": gpus, "max_retries": RETRIES}
        self._task = self._ray.remote(run_trial).options(**asked, **({} if memory is None else {"memory": memory}))
        self._running = dict[Any, str]()

    def _connect(self, address: str | None, cpus: int | None) -> None:
        address = address or os.environ.get("RAY_ADDRESS") or None
        given = {"address": address} if address is not None else {"num_cpus": cpus, "include_dashboard": False}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # of what Ray will do with cards that nobody asked for
                self._ray.init(log_to_driver=False, logging_level="error", **given)
        except Exception as error:  # of any kind: a node that does not start in time is a bare Exception
            raise BadInput(f"no Ray cluster answers at {address or 'this machine'}: {error}") from error

    @property
    def running(self) -> int:
        """Tasks that were handed to Ray."""
        return len(self._running)

    def has_room(self) -> bool:
        """While Ray's queue is short; machines that join or leave count at once."""
        return len(self._running) < max(1, int(PER_PLACE * self._places()))

    def _places(self) -> float:
        """Trials that the cluster runs at a time, by its cores and, if they ask for them, its cards."""
        held = self._ray.cluster_resources()
        cards = held.get("GPU", 0.0) / self._gpus if self._gpus else math.inf
        return min(held.get("CPU", 1.0), cards)

    def start(self, digest: str, plan: str) -> None:
        """Hands it to Ray."""
        self._running[self._task.remote(plan, self._device)] = digest

    def ended(self, seconds: float) -> list[Ended]:
        """What Ray has ready."""
        if not self._running:
            return []
        waiting = list(self._running)
        done, rest = self._ray.wait(waiting, num_returns=1, timeout=seconds)
        if done and rest:  # all others that are ready as well, without waiting
            done += self._ray.wait(rest, num_returns=len(rest), timeout=0)[0]
        return [self._ended(reference) for reference in done]

    def _ended(self, reference: Any) -> Ended:
        digest = self._running.pop(reference)
        try:
            return Ended(digest, self._ray.get(reference))
        except self._ray.exceptions.RayTaskError as error:  # run_trial raises nothing: it could not be loaded there
            reason = f"the worker cannot run it: {str(error.cause or error).strip().splitlines()[-1]}"
            return Ended(digest, Outcome(state="failed", error=reason))
        except self._ray.exceptions.RayError as error:
            return Ended(digest, Lost(str(error).strip().splitlines()[0]))

    def close(self) -> None:
        """Cancels what still runs; ends the cluster if it was started here."""
        for reference in self._running:
            self._ray.cancel(reference, force=True)
        self._running.clear()
        if self._mine:
            self._ray.shutdown()


def _ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise BadInput(f"--engine ray needs fedspill[ray] ({error})") from None
