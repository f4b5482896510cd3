"""Stored numbers to plain values: whole numbers with scales, sparse, quantised and short floats."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedspill.core.errors import BadInput

SCALES = ("{}.scale", "{}_scale", "scale.{}", "{}.scales", "{}_scales", "{}_scale_inv")
"""Names of a scale beside a tensor: value = scale * (stored - zero point). The last one, in FP8 checkpoints, is the
inverse of the factor that was applied before rounding, and so what to multiply by too."""
ZEROS = ("{}.zero_point", "{}_zero_point", "zero_point.{}", "{}_zp", "{}.zeros", "{}_zeros")
INSIDE = ("values", "q", "data", "int8")
"""Last names of whole numbers that stand beside their scale in a nest of their own."""
ROW_MAXIMA = "{}.SCB"
"""bitsandbytes: the largest absolute value of each row, which is stored as 127."""


@dataclass(frozen=True)
class Stored:
    """A tensor as it is stored.

    Attributes:
        scale: that its whole numbers, less `zero`, are multiplied by; one number, or one for each row.
    """

    tensor: Tensor
    scale: Tensor | None = None
    zero: Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """() for nested tensors, which have none."""
        return () if self.tensor.is_nested else tuple(self.tensor.shape)


def stored(tensors: Mapping[str, Tensor], own: Collection[str] = ()) -> dict[str, Stored]:
    """Every tensor with its scale; scales and zero points are no entries of their own.

    Args:
        own: the model's names; where it holds both a tensor and its scale, both are left as they are.
    """
    found, used = dict[str, Stored](), set[str]()
    for name, tensor in tensors.items():
        if not _is_short(tensor):
            continue
        base = _base(name, tensors)
        scale, zero = _beside(base, SCALES, tensors), _beside(base, ZEROS, tensors)
        maxima = _beside(base.rpartition(".")[0], (ROW_MAXIMA,), tensors)
        if scale is not None and not _both_own(name, scale, own):
            found[base] = Stored(tensor, tensors[scale], None if zero is None else tensors[zero])
            used |= {name, scale, *([] if zero is None else [zero])}
        elif maxima is not None and tensor.dtype == torch.int8:
            found[base] = Stored(tensor, tensors[maxima] / 127)
            used |= {name, maxima}
    return {**{k: Stored(v) for k, v in tensors.items() if k not in used}, **found}


def _both_own(name: str, scale: str, own: Collection[str]) -> bool:
    ends = (name[at:] for at in range(len(name)) if at == 0 or name[at - 1] in ". ")
    return any(end in own and scale[len(name) - len(end) :] in own for end in ends)


def _is_short(tensor: Tensor) -> bool:
    whole = not tensor.dtype.is_floating_point and not tensor.dtype.is_complex and tensor.dtype != torch.bool
    return (whole and not tensor.is_quantized) or (tensor.is_floating_point() and tensor.dtype.itemsize == 1)


def _base(name: str, tensors: Mapping[str, Tensor]) -> str:
    """What a tensor is of: of "a.weight.values" beside "a.weight.scale" the "a.weight"."""
    for border in (".", " > "):
        base, _, last = name.rpartition(border)
        if base and last in INSIDE and f"{base}{border}scale" in tensors:
            return base
    return name


def _beside(name: str, forms: tuple[str, ...], tensors: Mapping[str, Tensor]) -> str | None:
    for form in forms:
        for candidate in (form.format(name), form.format(name).replace(f"{name}.", f"{name} > ")):
            if candidate in tensors:
                return candidate
    return None


def values(given: Stored, like: Tensor, where: str) -> Tensor:
    """The plain values in the dtype and on the device of `like`, of whose shape they are known to be.

    Raises:
        BadInput: they are no real finite numbers, whole numbers without a scale where fractions are needed, or too
            large for the dtype.
    """
    tensor = _dense(given, where)
    if tensor.is_complex() and not like.is_complex():
        raise BadInput(f"{where} holds complex numbers; real ones are needed")
    fractions = like.is_floating_point() or like.is_complex()
    if fractions and not (tensor.is_floating_point() or tensor.is_complex()) and bool(tensor.any()):
        raise BadInput(f"{where} holds {_dtype(tensor)} without a scale; put one beside it, as NAME.scale")
    try:
        plain = tensor.detach().to(like)
    except (RuntimeError, NotImplementedError, TypeError) as error:
        raise BadInput(f"{where} holds {_dtype(tensor)}, which cannot be computed with") from error
    _check_finite(tensor, plain, where)
    return plain


def _check_finite(tensor: Tensor, plain: Tensor, where: str) -> None:
    if plain.isfinite().all():
        return
    wide = tensor.double() if tensor.dtype.itemsize == 1 else tensor
    if wide.isfinite().all():
        raise BadInput(f"{where} holds numbers beyond the range of {_dtype(plain)}")
    raise BadInput(f"{where} holds NaN or infinite values; finite numbers are needed")


def _dense(given: Stored, where: str) -> Tensor:
    tensor = given.tensor
    if tensor.device.type == "meta":
        raise BadInput(f"{where} lies on the meta device and holds no numbers; save the real tensors")
    if tensor.is_nested:
        raise BadInput(f"{where} is a nested tensor; a plain one is needed")
    try:
        if tensor.is_quantized:
            return tensor.dequantize()
        if tensor.layout != torch.strided:
            return tensor.to_dense()
        return tensor if given.scale is None else _scaled(tensor, given.scale, given.zero, where)
    except (RuntimeError, NotImplementedError) as error:
        raise BadInput(f"{where} holds {_dtype(tensor)}, which cannot be computed with") from error


def _scaled(tensor: Tensor, scale: Tensor, zero: Tensor | None, where: str) -> Tensor:
    whole = tensor.double()
    if zero is not None:
        whole = whole - _by_row(zero, tensor, f"{where}: its zero point")
    return whole * _by_row(scale, tensor, f"{where}: its scale")


def _by_row(factor: Tensor, tensor: Tensor, where: str) -> Tensor:
    """One number, or one for each row (output channel), in a shape that multiplies the tensor."""
    if factor.device.type == "meta" or factor.is_complex():
        raise BadInput(f"{where} holds {_dtype(factor)}; real numbers are needed")
    if factor.numel() == 1:
        return factor.double().reshape(())
    rows = tensor.shape[0] if tensor.ndim else 1
    if factor.numel() != rows or factor.shape[0] != rows:
        raise BadInput(
            f"{where} has shape {tuple(factor.shape)}; one number, or one for each of the {rows} rows, is needed"
        )
    return factor.double().reshape(rows, *[1] * (tensor.ndim - 1))


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
