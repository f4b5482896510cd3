"""The stated rounding of a recovered gradient, against the same local training in double precision."""

import pytest
import torch
from torch import Tensor

from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedAvg, FedSGD, LocalTraining, local_update
from fedspill.core.model import Model
from fedspill.core.types import Params, Update
from fedspill.inversion.gradients.mean import mean_gradient
from fedspill.inversion.gradients.rounding import entry_rounding, largest_rounding, relative_rounding
from tests.support.worlds import batch, relu_mlp

ONE_STEP = FedAvg(lr=1e-5)


def model() -> Model:
    """Parameters of different sizes, so that each tensor has a rounding of its own."""
    drawn, plain = torch.Generator().manual_seed(0), relu_mlp()
    return plain.with_params({k: 0.1 * torch.randn(v.shape, generator=drawn) for k, v in plain.params.items()})


def observed(sent: Model, training: LocalTraining) -> tuple[Update, ServerKnowledge]:
    return local_update(sent, batch(3), training), ServerKnowledge(sent, num_examples=3, local_training=training)


def exact(sent: Model) -> Params:
    """The gradient in double precision."""
    return local_update(sent.with_params({k: v.double() for k, v in sent.params.items()}), batch(3), FedSGD()).values


def test_the_error_of_a_delta_is_about_its_rounding() -> None:
    sent = model()
    update, knowledge = observed(sent, ONE_STEP)
    mean = mean_gradient(update, knowledge, update.values)
    for name, value in exact(sent).items():
        error = (mean.values[name] - value).abs()
        rounding = entry_rounding(update, knowledge, name, mean.scale)
        assert bool((error <= rounding + 1e-6 * value.abs().max()).all())
        assert float(error.max()) > 0.1 * float(rounding.max())
        assert float(rounding.max()) == largest_rounding(update, sent.params, [name], mean.scale)


def test_the_worst_tensor_counts() -> None:
    sent = model()
    update, knowledge = observed(sent, ONE_STEP)

    def relative(name: str) -> float:
        error: Tensor = entry_rounding(update, knowledge, name, 1.0)
        return float(error.norm() / update.values[name].double().norm())

    each = [relative(name) for name in update.values]
    assert min(each) < 0.5 * max(each)
    assert relative_rounding(update, knowledge, update.values) == pytest.approx(max(each), rel=1e-5)


def test_a_gradient_has_no_absolute_rounding() -> None:
    update, knowledge = observed(model(), FedSGD())
    name = next(iter(update.values))
    assert float(entry_rounding(update, knowledge, name, 1.0).max()) == 0
    assert largest_rounding(update, knowledge.model.params, update.values, 1.0) == 0
    assert relative_rounding(update, knowledge, update.values) == 0
