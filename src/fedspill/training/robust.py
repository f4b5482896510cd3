"""Adversarial training: the robust feature extractors of Maui (Dabholkar et al. 2025, arXiv 2509.11451, eq. 4)."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel

from fedspill import __version__
from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec, image_spec
from fedspill.core.model import Model
from fedspill.core.types import Batch
from fedspill.plan.build import network
from fedspill.training.adversary import Adversary
from fedspill.training.plan import RobustPlan, TestSection
from fedspill.training.state import Listener, Silent, StateFile, check_held_out, finished
from fedspill.training.trainer import Trainer
from fedspill.zoo.data import DataPool, load, shared_examples

HELD_OUT_STEPS = 10
"""Of the adversary that chooses the epoch."""


class Epoch(BaseModel):
    """One line of the training's curve; accuracies are of the held-out examples."""

    epoch: int
    loss: float
    natural: float
    robust: float


class RobustReport(BaseModel):
    """What a training reached; accuracies are of the test examples.

    Attributes:
        epoch: whose weights were kept: the most robust one on the held-out examples.
        evaluation: the adversary of `robust`.
    """

    natural: float
    natural_examples: int
    robust: float
    robust_examples: int
    evaluation: str
    epoch: int
    parameters: int
    curve: list[Epoch]
    command: str
    versions: str
    device: str


def train_robust(
    plan: RobustPlan, out: Path, *, device: torch.device, listener: Listener | None = None, command: str = ""
) -> RobustReport:
    """Trains, writes the weights of the best epoch to `out` and the figures beside it (FILE.json).

    A killed run goes on after its last epoch.

    Raises:
        BadInput: data or model cannot be had, or do not fit together.
    """
    listener = listener or Silent()
    file = StateFile.beside(out, plan)
    train, held, test = _data(plan)
    model = _model(plan, train, device)
    trainer = _trainer(plan, model, train)
    run = _Run(trainer, plan, held, listener, file)
    if (state := file.load()) is not None:
        run.resume(state)
        listener.message(f"going on after epoch {trainer.done}")
    run.all_epochs()
    trainer.module.load_state_dict(run.best)
    report = _report(run, test, plan.test, model, command)
    plain = {k: v.clone(memory_format=torch.contiguous_format) for k, v in trainer.module.state_dict().items()}
    finished(out, plain, _metadata(plan, trainer.spec, report), report, file)
    return report


@dataclass
class _Run:
    trainer: Trainer
    plan: RobustPlan
    held: Batch
    listener: Listener
    file: StateFile

    def __post_init__(self) -> None:
        self.curve: list[Epoch] = []
        self.best: dict[str, torch.Tensor] = {}

    @property
    def most(self) -> Epoch:
        """The epoch that is kept."""
        return max(self.curve, key=lambda e: e.robust)

    def resume(self, state: dict[str, Any]) -> None:
        self.curve = [Epoch(**e) for e in state["curve"]]
        self.best = state["best"]
        self.trainer.resume(state["trainer"])

    def all_epochs(self) -> None:
        trainer, settings = self.trainer, self.plan.robust
        total = settings.epochs * trainer.steps
        judge = Adversary(settings.norm, settings.epsilon, HELD_OUT_STEPS)
        while trainer.done < settings.epochs:
            losses: list[float] = []
            for loss in trainer.epoch():
                losses.append(loss)
                self.listener.progress(trainer.done * trainer.steps + len(losses), total, loss)
            natural, robust = trainer.accuracy(self.held), trainer.accuracy(self.held, judge)
            self.curve.append(Epoch(epoch=trainer.done, loss=sum(losses) / len(losses), natural=natural, robust=robust))
            if self.most.epoch == trainer.done:
                self.best = {k: v.detach().clone() for k, v in trainer.module.state_dict().items()}
            curve = [e.model_dump() for e in self.curve]
            self.file.save({"trainer": trainer.state(), "curve": curve, "best": self.best})
            words = f"held out: natural {natural:.1%}, robust {robust:.1%}"
            self.listener.message(f"epoch {trainer.done}: loss {self.curve[-1].loss:.4f}; {words}")


def _data(plan: RobustPlan) -> tuple[DataPool, Batch, DataPool]:
    pool = load(**plan.data.model_dump())
    test = load(**plan.test.model_dump(include=set(type(plan.data).model_fields)))
    if shared := shared_examples(pool, test):
        raise BadInput(f"{len(shared)} test examples are training examples too; they must be disjoint")
    held = plan.robust.held_out
    size = plan.robust.minibatch_size
    check_held_out(len(pool), held, size)
    return pool, pool.batch[len(pool) - held :], test


def _model(plan: RobustPlan, pool: DataPool, device: torch.device) -> Model:
    model = network(plan.model, pool, plan.data.root, device, "cnn", pool)
    image_spec(model.input, f"model {plan.model.name!r}", BadInput)
    return model


def _trainer(plan: RobustPlan, model: Model, pool: DataPool) -> Trainer:
    settings = plan.robust
    module = model.module.to(model.like.device)
    module.load_state_dict({**model.params, **model.buffers})
    for value in module.parameters():
        if value.ndim == 4:  # convolutions run faster so
            value.data = value.data.contiguous(memory_format=torch.channels_last)
    train = pool.batch[: len(pool) - settings.held_out]
    return Trainer(
        module,
        settings.recipe(),
        settings.epochs,
        train,
        image_spec(model.input),
        settings.mixed_precision,
        settings.seed,
    )


def _report(run: _Run, test: DataPool, section: TestSection, model: Model, command: str) -> RobustReport:
    settings = run.plan.robust
    epsilon = section.epsilon or settings.epsilon or Adversary.epsilon
    judge = Adversary(settings.norm, epsilon, section.steps, restarts=section.restarts)
    asked = test.batch[: section.robust_examples]
    run.listener.message("measuring natural and robust accuracy on the test examples")
    return RobustReport(
        natural=run.trainer.accuracy(test.batch),
        natural_examples=len(test),
        robust=run.trainer.accuracy(asked, judge),
        robust_examples=len(asked),
        evaluation=f"PGD-{judge.steps}, {judge.restarts} restarts, {judge.norm}, epsilon {judge.epsilon:g}",
        epoch=run.most.epoch,
        parameters=sum(p.numel() for p in model.params.values()),
        curve=run.curve,
        command=command,
        versions=f"fedspill {__version__}, torch {torch.__version__}",
        device=run.trainer.device.type,
    )


def _metadata(plan: RobustPlan, spec: ImageSpec, report: RobustReport) -> dict[str, str]:
    return {
        "network": plan.model.name or "cnn",
        "options": json.dumps(plan.model.options),
        "dataset": plan.data.name,
        "mean": json.dumps(spec.mean),
        "std": json.dumps(spec.std),
        "test_accuracy": f"{report.natural:.4f}",
        "robust_accuracy": f"{report.robust:.4f} ({report.evaluation})",
        "command": report.command,
        "versions": report.versions,
    }
