"""Filter chains for tests: one that is right, and the same with one thing broken each."""

from collections.abc import Callable

import torch
from torch import Tensor

from fedspill.core.types import Params

CLIP, STD = 1.0, 0.05
Filter = Callable[[Params], Params]


def floats(update: Params) -> Params:
    return {k: v for k, v in update.items() if v.is_floating_point()}


def clipped(update: Params, clip: float = CLIP) -> Params:
    norm = torch.cat([v.double().flatten() for v in floats(update).values()]).norm()
    factor = float(torch.clamp(clip / norm.clamp_min(1e-30), max=1.0))
    return {k: v * factor if v.is_floating_point() else v for k, v in update.items()}


def noise_like(value: Tensor, rng: torch.Generator) -> Tensor:
    return STD * torch.randn(value.shape, generator=rng).to(value)


def fresh() -> torch.Generator:
    rng = torch.Generator()
    rng.seed()
    return rng


def right() -> Filter:
    """Clips all floating tensors together, noises each, and sends no whole numbers."""
    rng = fresh()
    return lambda update: {k: v + noise_like(v, rng) for k, v in clipped(floats(update)).items()}


def no_noise() -> Filter:
    return lambda update: clipped(floats(update))


def integers_unnoised() -> Filter:
    rng = fresh()
    return lambda update: {
        k: v + noise_like(v, rng) if v.is_floating_point() else v for k, v in clipped(update).items()
    }


def buffers_unnoised() -> Filter:
    rng = fresh()
    return lambda update: {
        k: v if "running" in k else v + noise_like(v, rng) for k, v in clipped(floats(update)).items()
    }


def bias_unnoised() -> Filter:
    rng = fresh()
    return lambda update: {
        k: v if k.endswith("4.bias") else v + noise_like(v, rng) for k, v in clipped(floats(update)).items()
    }


def clip_after_noise() -> Filter:
    rng = fresh()
    return lambda update: clipped({k: v + noise_like(v, rng) for k, v in floats(update).items()})


def one_seed_every_round() -> Filter:
    def chain(update: Params) -> Params:
        rng = torch.Generator().manual_seed(7)
        return {k: v + noise_like(v, rng) for k, v in clipped(floats(update)).items()}

    return chain


def one_seed_every_client() -> Filter:
    rng = torch.Generator().manual_seed(7)
    return lambda update: {k: v + noise_like(v, rng) for k, v in clipped(floats(update)).items()}


def one_noise_for_all_tensors() -> Filter:
    source = fresh()

    def chain(update: Params) -> Params:
        seed = int(torch.randint(2**31, (1,), generator=source))
        return {k: v + noise_like(v, torch.Generator().manual_seed(seed)) for k, v in clipped(floats(update)).items()}

    return chain


def half_the_noise() -> Filter:
    rng = fresh()
    return lambda update: {k: v + noise_like(v, rng) / 2 for k, v in clipped(floats(update)).items()}


def looser_clip() -> Filter:
    """Clips tensor by tensor, so that all together are longer."""
    rng = fresh()

    def chain(update: Params) -> Params:
        each = [clipped({k: v}) for k, v in floats(update).items()]
        return {k: v + noise_like(v, rng) for one in each for k, v in one.items()}

    return chain


def relative_noise() -> Filter:
    rng = fresh()

    def chain(update: Params) -> Params:
        rms = torch.cat([v.flatten() for v in floats(update).values()]).square().mean().sqrt()
        return {k: v + rms * noise_like(v, rng) for k, v in floats(update).items()}

    return chain


def laplace() -> Filter:
    rng = fresh()

    def draw(value: Tensor) -> Tensor:
        u = torch.rand(value.shape, generator=rng).to(value) - 0.5
        return -STD / 2**0.5 * u.sign() * (1 - 2 * u.abs()).clamp_min(1e-9).log()

    return lambda update: {k: v + draw(v) for k, v in clipped(floats(update)).items()}


def largest() -> Filter:
    """The larger part of every tensor, and of nothing else."""

    def kept(value: Tensor) -> Tensor:
        least = value.abs().flatten().kthvalue(max(1, int(0.7 * value.numel()))).values
        return value * (value.abs() > least)

    return lambda update: {k: kept(v) for k, v in floats(update).items()}


def loud(std: float = 0.3) -> Filter:
    rng = fresh()
    return lambda update: {k: v + std / STD * noise_like(v, rng) for k, v in floats(update).items()}


def loud_once() -> Filter:
    def chain(update: Params) -> Params:
        rng = torch.Generator().manual_seed(7)
        return {k: v + 6 * noise_like(v, rng) for k, v in floats(update).items()}

    return chain
