"""A gradient summed over micro-batches is the gradient of the whole batch."""

from dataclasses import replace

import pytest
import torch

from fedspill.core.errors import BadInput
from fedspill.core.local_training.update import FedAvg, FedSGD, local_update, streamed_gradient
from fedspill.core.rng import stream
from fedspill.federation.aggregation import collect
from fedspill.federation.client import Client, bn_statistics, in_parts, shared_out
from tests.support.worlds import batch, conv_bn, mlp


@pytest.mark.parametrize("size", [1, 3, 7, 20])
def test_parts_of_any_size_give_the_whole_gradient_and_tell_how_far_they_are(size: int) -> None:
    model, private, heard = conv_bn(dtype=torch.float64), batch(7, dtype=torch.float64), list[int]()
    whole = local_update(model, private, FedSGD()).values
    found = streamed_gradient(model, in_parts(private, size), FedSGD(), heard.append).values
    for name, value in whole.items():
        assert torch.allclose(found[name], value, rtol=1e-10, atol=1e-14)
    assert heard[-1] == 7
    assert len(heard) == -(-7 // size)


def test_float32_differs_from_the_whole_by_rounding_only() -> None:
    model, private = conv_bn(), batch(30)
    exact = local_update(conv_bn(dtype=torch.float64), batch(30, dtype=torch.float64), FedSGD()).values
    found = streamed_gradient(model, in_parts(private, 4), FedSGD()).values
    for name, value in exact.items():
        assert float((found[name].double() - value).norm()) < 1e-4 * float(value.norm()) + 1e-7


def test_clients_with_micro_batches_send_what_others_send() -> None:
    model, private, told = mlp(dtype=torch.float64), batch(12, dtype=torch.float64), list[tuple[int, int]]()
    answers = [
        collect(
            model, shared_out(private, 3, FedSGD(), micro_batch=m), stream(0, "c"), lambda n, t: told.append((n, t))
        )
        for m in (None, 2)
    ]
    assert all(torch.allclose(answers[0].values[k], v, rtol=1e-10) for k, v in answers[1].values.items())
    assert told[-1] == (12, 12)


def test_statistics_of_parts_join_to_those_of_the_whole() -> None:
    model, private = conv_bn(dtype=torch.float64), batch(9, dtype=torch.float64)
    whole, parts = bn_statistics(model, private), bn_statistics(model, private, 2)
    assert set(whole) == set(parts)
    assert all(torch.allclose(parts[k], v, rtol=1e-10) for k, v in whole.items())


def test_what_cannot_be_streamed_is_told() -> None:
    with pytest.raises(BadInput, match="batch statistics need the whole batch"):
        streamed_gradient(replace(conv_bn(), training=True), in_parts(batch(4), 2), FedSGD())
    with pytest.raises(BadInput, match="micro_batch needs protocol='fedsgd'"):
        Client(batch(4), FedAvg(), micro_batch=2)
    with pytest.raises(BadInput, match="at least 1 example"):
        streamed_gradient(mlp(), iter(()), FedSGD())
