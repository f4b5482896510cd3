"""The peer's side of `matching`: breaching 0.1.2 with its configuration `invertinggradients`, in its own loop.

Nothing of the peer is changed but the number of iterations, over which its step schedule stretches. What it computes
in an iteration is wrapped to hear when one begins. Its server, user and attacker are its own; the gradient of its user
is checked against fedspill's, and the attacker is then handed the very numbers that fedspill's attack gets.
"""

import contextlib
import copy
import io
import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.common.clock import Probe, Snapshot
from benchmarks.common.cpu_torchvision import DECLARED
from benchmarks.matching.world import World
from fedspill.core.local_training.update import FedAvg
from fedspill.core.rng import seeded_globals, stream
from fedspill.core.types import UpdateKind

TORCHVISION = DECLARED
"""Kept alive."""

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch.jit.script and friends, at import
    import breaching
    from breaching.cases.models.model_preparation import VisionContainer
    from breaching.cases.servers import HonestServer
    from breaching.cases.users import UserMultiStep, UserSingleStep

AGREE = 1e-3
"""Largest relative difference between the two clients' updates, of float32 rounding."""


def configuration(given: World, iterations: int) -> Any:
    """The peer's defaults with the case's sizes."""
    words = ["case=1_single_image_small", "attack=invertinggradients"]
    words += [f"attack.optim.max_iterations={iterations}", f"case.user.num_data_points={len(given.private)}"]
    if isinstance(given.training, FedAvg):
        size = given.training.minibatch_size or len(given.private)
        words += ["case/user=local_updates", f"case.user.local_learning_rate={given.training.lr}"]
        words += [f"case.user.num_local_updates={given.training.local_steps(len(given.private))}"]
        words += [f"case.user.num_data_per_local_update_step={size}"]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="(?s).*version_base", category=UserWarning)
        config = breaching.get_config(overrides=words)
    config.case.data.mean, config.case.data.std = list(given.spec.mean), list(given.spec.std)
    config.case.data.shape = list(given.spec.shape)
    return config


def settings(given: World, iterations: int) -> dict[str, Any]:
    """All of the attack's configuration."""
    from omegaconf import OmegaConf

    with contextlib.redirect_stdout(io.StringIO()):
        found = OmegaConf.to_container(configuration(given, iterations).attack, resolve=True)
    assert isinstance(found, dict)
    return {str(k): v for k, v in found.items()}


def network(given: World) -> nn.Module:
    """The same network with the same weights, as a module of its own."""
    module = copy.deepcopy(given.model.module)
    module.load_state_dict({**given.model.params, **given.model.buffers})
    container = VisionContainer(module)
    container.name = given.model.module.__class__.__name__
    return container.eval()


class Hook:
    """Stands before the peer's objective and tells a probe that an iteration is over when the next one begins."""

    def __init__(self, attacker: Any, probe: Probe) -> None:
        self.inner, self.probe = attacker._compute_objective, probe
        self.value: Tensor | None = None
        self.lowest, self.best = math.inf, None
        attacker._compute_objective = self

    def __call__(self, candidate: Tensor, *others: Any) -> Callable[[], Tensor]:
        """What the peer asks for once per iteration, with the number of the iteration last."""
        done: int = others[-1]
        if done:
            self.probe.tick(done)
            if self.probe.scoring:
                self._codebook(candidate)
                self.probe.seen(done, lambda: Snapshot(self._best(candidate), candidate.detach(), self.lowest))
        closure = self.inner(candidate, *others)

        def noted() -> Tensor:
            value = closure()
            self.value = value.detach()
            return value

        return noted

    def _codebook(self, candidate: Tensor) -> None:
        """As the peer keeps its best: a value that is the lowest so far keeps the candidate after the step."""
        assert self.value is not None
        if (value := float(self.value)) < self.lowest:
            self.lowest, self.best = value, candidate.detach().clone()

    def _best(self, candidate: Tensor) -> Tensor:
        return candidate.detach() if self.best is None else self.best


def shared(given: World, server: Any, loss: nn.Module, config: Any, setup: dict[str, Any]) -> tuple[Any, Any]:
    """What the server sends and what the peer's own user answers, with the very numbers that fedspill gets.

    Raises:
        AssertionError: the two clients did not compute the same.
    """
    batch = {"inputs": given.spec.encode(given.private.inputs).to(given.device), "labels": given.private.labels}
    kind = UserMultiStep if isinstance(given.training, FedAvg) else UserSingleStep
    user = kind(server.model, loss, [batch], setup, 0, config.case.user)
    payload = server.distribute_payload()
    sent, _ = user.compute_local_updates(payload)
    # The peer's sign of a change of parameters is after minus before.
    sign = -1.0 if given.update.kind is UpdateKind.DELTA else 1.0
    ours = [sign * v for v in given.update.values.values()]
    off = torch.cat([(a - b).flatten() for a, b in zip(ours, sent["gradients"], strict=True)]).norm()
    assert float(off) <= AGREE * given.update.norm(), f"the clients differ by {float(off):.2e}"
    return payload, {**sent, "gradients": ours}


def peer_run(given: World, iterations: int, probe: Probe, seed: int) -> None:
    """One attack of the peer; `seed` draws its start, its prints are swallowed."""
    setup = {"device": given.device, "dtype": torch.float32}
    with contextlib.redirect_stdout(io.StringIO()), seeded_globals(stream(seed, "peer")):
        config, loss = configuration(given, iterations), nn.CrossEntropyLoss()
        server = HonestServer(network(given), loss, config.case, setup)
        payload, sent = shared(given, server, loss, config, setup)
        attacker = breaching.attacks.prepare_attack(server.model, server.loss, config.attack, setup)
        Hook(attacker, probe)
        probe.start()
        found, stats = attacker.reconstruct([payload], [sent], server.secrets)
        values = stats["Trial_0_Val"]
        probe.end(len(values), given.spec.decode(found["data"].detach()), min(values))
