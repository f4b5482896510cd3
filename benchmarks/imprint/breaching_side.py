"""The peer's side of `imprint_peer`: Robbing the Fed by breaching 0.1.2, its own server, user and attacker.

Nothing of the peer is changed. It runs on current libraries with `cpu_torchvision`. The photographs are handed to its
user as a ready batch, since its data loader wants ImageNet's archive.
"""

import contextlib
import copy
import io
import time
import warnings
from typing import Any

import torch
from torch import nn

from benchmarks.imprint.world import Run, Variant, World
from fedspill.core.rng import seeded_globals, stream

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit.script, at import
    import breaching
    from breaching.cases.models.model_preparation import VisionContainer
    from breaching.cases.servers import MaliciousModelServer
    from breaching.cases.users import UserSingleStep

SETUP = {"device": torch.device("cpu"), "dtype": torch.float32}


def configuration(given: World, variant: Variant) -> Any:
    """The peer's own defaults for this attack, with the case's sizes."""
    block = "case.server.model_modification"
    config = breaching.get_config(
        overrides=[
            "case=1_single_image_small",
            f"case/data={given.case.peer_data}",
            "case/server=malicious-model-rtf",
            "attack=imprint",
            f"case.user.num_data_points={len(given.private)}",
            f"{block}.num_bins={given.case.rows}",
            f"{block}.linfunc={variant.peer_function}",
            f"{block}.mode={variant.peer_mode}",
        ]
    )
    config.case.data.mean, config.case.data.std = list(given.spec.mean), list(given.spec.std)
    return config


def network(given: World) -> nn.Module:
    """The same network with the same weights, as a module of its own."""
    module = copy.deepcopy(given.model.module)
    module.load_state_dict({**given.model.params, **given.model.buffers})
    container = VisionContainer(module)
    container.name = "ResNet18"
    return container.eval()


def breaching_run(given: World, variant: Variant) -> Run:
    """breaching: plants, computes the gradient, reads; its prints are swallowed."""
    with contextlib.redirect_stdout(io.StringIO()), seeded_globals(stream(given.seed, "peer")):
        config, model, loss = configuration(given, variant), network(given), nn.CrossEntropyLoss()
        batch = {"inputs": given.spec.encode(given.private.inputs), "labels": given.private.labels}
        start = time.perf_counter()
        server = MaliciousModelServer(model, loss, config.case, SETUP)
        changed = server.vet_model(model)
        user = UserSingleStep(changed, loss, [batch], SETUP, 0, config.case.user)
        payload = server.distribute_payload()
        planted = time.perf_counter()
        shared, _ = user.compute_local_updates(payload)
        sent = time.perf_counter()
        attacker = breaching.attacks.prepare_attack(server.model, server.loss, config.attack, SETUP)
        found, _ = attacker.reconstruct([payload], [shared], server.secrets)
        pixels = given.spec.decode(found["data"])
        read = time.perf_counter()
    return Run(pixels.detach(), sent - planted, read - sent, read - start)
