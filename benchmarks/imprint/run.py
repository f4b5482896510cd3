"""One imprint attack on one update: what every benchmark of Robbing the Fed measures."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedSGD, LocalTraining, local_update
from fedspill.core.model import Model
from fedspill.core.rng import stream
from fedspill.core.roles import Predicts, Tampered, Tampering
from fedspill.core.types import Batch, Reconstruction, Update
from fedspill.scoring.identification import identify, pixel_distance
from fedspill.scoring.match import match
from fedspill.scoring.metrics import PSNR

EXACT = 60.0
"""dB."""


@dataclass(frozen=True)
class Found:
    """What came of one update of n examples.

    Attributes:
        psnr: (n,) per private example, 0 where nothing was matched to it.
        predicted: how many the measurement alone says.
        agree: how many of those are exact.
        false: candidates that the readout is sure of (confidence above 0.5) and that equal no private example.
        identified: how many are nearer to their example than to any other reference picture (IIP, pixels): private and
            public ones, of the example's class where that has two of them, else all.
    """

    psnr: Tensor
    predicted: int
    agree: int
    false: int
    identified: int

    @property
    def exact(self) -> int:
        """Examples at 60 dB or more."""
        return int((self.psnr >= EXACT).sum())


def run(
    tampering: Tampering,
    model: Model,
    private: Batch,
    public: Batch | None,
    seed: int,
    training: LocalTraining = FedSGD(),  # noqa: B008
    change=lambda update: update,
) -> Found:
    """The server sends, the client answers in float32, the server reads; `change` is a defence."""
    tampered, rebuilt = read(tampering, model, private, public, seed, training, change)
    return judged(tampered, rebuilt, private, public)


def read(
    tampering: Tampering,
    model: Model,
    private: Batch,
    public: Batch | None,
    seed: int,
    training: LocalTraining = FedSGD(),  # noqa: B008
    change=lambda update: update,
) -> tuple[Tampered, Reconstruction]:
    """What was sent, and what its readout makes of the answer."""
    tampered = tampering.tamper(model, public, 0, stream(seed, "server"))
    assert tampered.readout is not None
    update: Update = change(local_update(tampered.model, private, training))
    known = ServerKnowledge(tampered.model, num_examples=len(private), local_training=training)
    return tampered, tampered.readout.reconstruct(update, known, stream(seed, "attack"))


def matched(rebuilt: Reconstruction, private: Batch) -> tuple[Tensor, Tensor]:
    """The n surest candidates that have a private example, and the positions of these."""
    kept = rebuilt.confidence.argsort(descending=True, stable=True)[: len(private)]
    mine, theirs = match(rebuilt.inputs[kept], private.inputs)
    return rebuilt.inputs[kept][mine], theirs


def judged(tampered: Tampered, rebuilt: Reconstruction, private: Batch, others: Batch | None = None) -> Found:
    """Opens the truth."""
    psnr, hits = torch.zeros(len(private), dtype=torch.float64), 0
    if len(rebuilt.inputs):
        shown, theirs = matched(rebuilt, private)
        psnr[theirs] = PSNR()(shown, private.inputs[theirs]).double()
        if others is not None:
            hits = int(identify(shown, theirs, private, others, pixel_distance()).hits.sum())
    sure = rebuilt.inputs[rebuilt.confidence > 0.5].flatten(1)
    near = torch.cdist(sure, private.inputs.flatten(1)).amin(1) if len(sure) else sure.new_zeros(0)
    false = int((near > 10 ** (-EXACT / 20) * private.inputs[0].numel() ** 0.5).sum())
    assert isinstance(tampered.readout, Predicts)
    model = tampered.model
    expected = tampered.readout.predict(model, model.input.encode(private.inputs)).recoverable
    return Found(psnr, int(expected.sum()), int((expected & (psnr >= EXACT)).sum()), false, hits)


def mean_and_error(values: list[float]) -> str:
    """Mean ± standard error."""
    found = torch.tensor(values, dtype=torch.float64)
    if len(found) < 2:
        return f"{float(found.mean()):.2f}"
    return f"{float(found.mean()):.2f} ± {float(found.std()) / len(found) ** 0.5:.2f}"
