"""Accuracy after a short training by the plan's protocol and defences, beside the plain twin in bare PyTorch."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from fedspill.auditing import parse_plan, run_audit
from fedspill.auditing.resolving.scenario import prepare
from fedspill.auditing.utility.short_training import utility
from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec
from fedspill.core.model import Model
from fedspill.core.rng import rand, stream
from fedspill.rendering.defences import utility_sentence
from fedspill.rendering.html.page import render
from fedspill.rendering.markdown import markdown
from fedspill.report.schema import AuditReport, Utility
from fedspill.zoo.data import from_tensors

COUNT, CLASSES = 160, 3
SHORT = {"rounds": 12, "clients": 2, "held_out": 24}


def world() -> tuple[Model, tuple[torch.Tensor, torch.Tensor]]:
    """A linear network, and pictures whose class is the brightest channel."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, CLASSES))
    for value in net.parameters():
        nn.init.zeros_(value)
    x = rand((COUNT, 3, 4, 4), stream(0, "utility", "x"), torch.zeros(()))
    labels = torch.arange(COUNT) % CLASSES
    x = (x / 2).scatter_add(1, labels[:, None, None, None].expand(-1, 1, 4, 4), torch.full((COUNT, 1, 4, 4), 0.5))
    return Model.of(net, ImageSpec((3, 4, 4))), (x, labels)


def audited(utility: dict[str, Any] | None, **more: Any) -> AuditReport:
    model, (inputs, labels) = world()
    data = (inputs[:48], labels[:48])
    plan: dict[str, Any] = {
        "audit": {"attacks": ["linear_layer"], "identification": []},
        "client": {"num_examples": 4},
    }
    plan |= more if utility is None else {"utility": utility} | more
    return run_audit(parse_plan(plan), model=model, data=data, device="cpu").report


def learnt(section: dict[str, Any], **more: Any) -> Utility:
    model, data = world()
    plan = parse_plan({"client": {"num_examples": 4}, "utility": section} | more)
    assert plan.utility is not None
    made = prepare(plan, torch.device("cpu"), model=model, pool=from_tensors(*data))
    return utility(made, plan.utility)


def test_a_plan_that_does_not_ask_measures_nothing() -> None:
    report = audited(None)
    assert report.utility is None
    assert utility_sentence(report) is None


def test_the_accuracy_is_that_of_the_plain_twin() -> None:
    found = learnt(SHORT | {"server_lr": 0.2, "server_momentum": 0.5, "clients": 28})
    x, labels = world()[1]
    order = torch.randperm(COUNT, generator=stream(0, "utility", "order"))
    x, labels = x[order], labels[order]
    weight, bias = torch.zeros(CLASSES, 48), torch.zeros(CLASSES)
    held = [torch.zeros_like(weight), torch.zeros_like(bias)]
    trained, target = x[48:160].flatten(1), labels[48:160]
    for _ in range(12):  # all clients are asked, so a round is one step on all examples
        leaves = [weight.requires_grad_(), bias.requires_grad_()]
        loss = functional.cross_entropy(functional.linear(trained, *leaves), target)
        held = [0.5 * h + g for h, g in zip(held, torch.autograd.grad(loss, leaves), strict=True)]
        weight, bias = (v.detach() - 0.2 * h for v, h in zip(leaves, held, strict=True))
    counted = slice(24, 48)
    right = (functional.linear(x[counted].flatten(1), weight, bias).argmax(1) == labels[counted]).double().mean()
    assert found.clients == 28
    assert found.accuracy == pytest.approx(float(right))
    assert found.before == pytest.approx(float((labels[counted] == 0).double().mean()))
    assert (found.examples, found.held_out, found.server_lr) == (112, 24, 0.2)


def test_a_defence_that_hides_everything_leaves_nothing_to_learn() -> None:
    noise = [{"name": "gradient_noise", "sigma": 1e4}]
    free, noised = learnt(SHORT), learnt(SHORT, defences=noise)
    assert free.accuracy == 1.0
    assert noised.accuracy < 0.8
    assert free.guess == noised.guess


def test_clipping_is_made_up_for_by_the_server_s_own_learning_rate() -> None:
    clipped = learnt(SHORT, defences=[{"name": "clipping", "norm": 0.1}])
    assert clipped.accuracy >= 0.9


def test_too_few_examples_are_told_before_anything_is_attacked() -> None:
    with pytest.raises(BadInput, match=r"2 clients of 4 examples and 2 x 100 held out need 208 examples, 48 were got"):
        audited(SHORT | {"held_out": 100})


def test_every_view_says_it() -> None:
    report = audited({"rounds": 2, "clients": 1, "held_out": 20})
    sentence = utility_sentence(report)
    assert sentence is not None
    assert "of 20 held-out examples" in sentence
    assert "What is left to learn" in render(report, [])
    assert "2 rounds of 1 client" in markdown(report)
