"""Operations that PyTorch does not differentiate twice: given another form, or told in one line."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedspill.core.errors import NotApplicable
from fedspill.core.local_training.update import FedSGD, local_update
from fedspill.core.model import Model
from fedspill.inversion.objective.distances import cosine_distance
from fedspill.inversion.objective.matching import Matching
from tests.support.worlds import SPEC, batch, draw_weights


class Net(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.conv, self.fc, self.gate, self.kind = nn.Conv2d(3, 4, 3), nn.Linear(144, 10), nn.Hardsigmoid(), kind

    def forward(self, z: Tensor) -> Tensor:
        x = self.conv(z)
        if self.kind == "module":
            x = x * self.gate(x)
        elif self.kind == "function":
            x = x * functional.hardsigmoid(x)
        elif self.kind == "composed":
            x = x * (x + 3).clamp(0, 6) / 6
        else:
            x = torch.cdist(x.flatten(2), x.flatten(2) + 1).flatten(1)[:, :1, None, None] * x
        return self.fc(x.flatten(1))


def slope(kind: str) -> Tensor:
    model = Model.of(draw_weights(Net(kind)).double(), SPEC)
    private = batch(2, dtype=torch.float64)
    matching = Matching(model, local_update(model, private, FedSGD()), FedSGD(), 1, cosine_distance)
    z = (SPEC.encode(private.inputs) + 0.1).requires_grad_()
    return torch.autograd.grad(matching(z, private.labels), z)[0]


@pytest.mark.parametrize("kind", ["module", "function"])
def test_hard_sigmoids_are_as_if_they_were_composed(kind: str) -> None:
    wanted = slope("composed")
    assert float((slope(kind) - wanted).abs().max()) < 1e-12 * float(wanted.abs().max())


def test_what_has_no_second_derivative_is_named() -> None:
    with pytest.raises(NotApplicable, match="the network uses cdist, which PyTorch cannot differentiate twice"):
        slope("distances")
