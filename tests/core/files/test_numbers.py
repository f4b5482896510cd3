"""Numbers as they are stored beside their plain twin: scales, short floats, sparse and quantised tensors."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.files.numbers import stored, values
from fedspill.core.files.reading import read_tensors

PLAIN = torch.tensor([[0.5, -2.0, 0.0], [4.0, 0.25, -1.0]])
LIKE = torch.zeros(2, 3)


def one(tensors: dict[str, Tensor], like: Tensor = LIKE) -> Tensor:
    entries = stored(tensors)
    assert list(entries) == ["a.w"], "a scale is no entry of its own"
    return values(entries["a.w"], like, "update 'a.w'")


ALIKE = {
    "half": lambda: PLAIN.half(),
    "bfloat16": lambda: PLAIN.bfloat16(),
    "double": lambda: PLAIN.double(),
    "float8 e4m3": lambda: PLAIN.to(torch.float8_e4m3fn),
    "float8 e5m2": lambda: PLAIN.to(torch.float8_e5m2),
    "sparse": lambda: PLAIN.to_sparse(),
    "sparse rows": lambda: PLAIN.to_sparse_csr(),
    "quantised": lambda: torch.quantize_per_tensor(PLAIN, 0.25, 3, torch.qint8),
    "quantised by channel": lambda: torch.quantize_per_channel(
        PLAIN, torch.tensor([0.5, 0.25]), torch.tensor([0, 0]), 0, torch.qint8
    ),
    "not contiguous": lambda: PLAIN.T.contiguous().T,
    "needs a gradient": lambda: PLAIN.clone().requires_grad_(),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", ALIKE)
def test_every_type_gives_the_same_values(case: str) -> None:
    got = one({"a.w": ALIKE[case]()})
    assert got.dtype == torch.float32
    assert not got.requires_grad
    assert torch.equal(got, PLAIN)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", ALIKE)
def test_every_type_gives_the_same_values_out_of_a_checkpoint(case: str, tmp_path: Path) -> None:
    torch.save({"a.w": ALIKE[case]()}, tmp_path / "a.pt")
    assert torch.equal(one(read_tensors(tmp_path / "a.pt")), PLAIN)


@pytest.mark.parametrize(
    "dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.float16, torch.float64]
)
def test_short_floats_out_of_safetensors(dtype: torch.dtype, tmp_path: Path) -> None:
    save_file({"a.w": PLAIN.to(dtype)}, tmp_path / "a.safetensors")
    assert torch.equal(one(read_tensors(tmp_path / "a.safetensors")), PLAIN)


@pytest.mark.parametrize(
    "scale", ["a.w.scale", "a.w_scale", "scale.a.w", "a.w.scales", "a.w_scales", "a.w_scale_inv", "a.w > scale"]
)
def test_whole_numbers_are_multiplied_by_the_scale_beside_them(scale: str) -> None:
    whole = (PLAIN / 0.25).to(torch.int8)
    assert torch.equal(one({"a.w": whole, scale: torch.tensor(0.25)}), PLAIN)
    rows = torch.tensor([0.5, 0.25])
    by_row = (PLAIN / rows[:, None]).to(torch.int8)
    assert torch.equal(one({"a.w": by_row, scale: rows}), PLAIN)
    assert torch.equal(one({"a.w": by_row, scale: rows[:, None]}), PLAIN)
    short = (PLAIN / 0.25).to(torch.float8_e4m3fn)
    assert torch.equal(one({"a.w": short, scale: torch.tensor([0.25])}), PLAIN)


def test_zero_points_nests_and_row_maxima() -> None:
    whole = (PLAIN / 0.25 + 9).to(torch.uint8)
    scale, zero = torch.tensor(0.25), torch.tensor(9)
    for name in ("a.w.zero_point", "a.w_zero_point", "zero_point.a.w"):
        assert torch.equal(one({"a.w": whole, "a.w.scale": scale, name: zero}), PLAIN)
    for inside in ("values", "q", "data"):
        assert torch.equal(one({f"a.w.{inside}": whole, "a.w.scale": scale, "a.w.zero_point": zero}), PLAIN)
    maxima = PLAIN.abs().amax(1)
    rounded = (PLAIN / maxima[:, None] * 127).round().to(torch.int8)
    got = one({"a.w": rounded, "a.SCB": maxima})
    assert torch.equal(got, (rounded.double() * maxima.double()[:, None] / 127).float()) or bool(
        ((got - PLAIN).abs() <= maxima[:, None] / 254).all()
    )


def test_a_scale_beside_floats_is_a_parameter_of_its_own() -> None:
    assert set(stored({"norm.w": PLAIN, "norm.w_scale": torch.ones(1)})) == {"norm.w", "norm.w_scale"}


def test_whole_numbers_for_whole_numbers_and_zeros_need_no_scale() -> None:
    counter = torch.tensor(3)
    assert int(values(stored({"n": counter})["n"], torch.tensor(0), "n")) == 3
    assert torch.equal(one({"a.w": torch.zeros(2, 3, dtype=torch.int8)}), torch.zeros(2, 3))
    with pytest.raises(BadInput, match=r"'a.w' holds int8 without a scale; put one beside it"):
        one({"a.w": torch.ones(2, 3, dtype=torch.int8)})
    with pytest.raises(BadInput, match="holds bool without a scale"):
        one({"a.w": torch.ones(2, 3, dtype=torch.bool)})


REFUSED = {
    "complex": (PLAIN.to(torch.complex64), "complex numbers; real ones"),
    "meta": (PLAIN.to("meta"), "on the meta device and holds no numbers"),
    "nan in float8": (torch.full((2, 3), torch.nan).to(torch.float8_e4m3fn), "NaN or infinite"),
    "infinite half": (torch.full((2, 3), 1e6).half(), "NaN or infinite"),
    "too large": (torch.full((2, 3), 1e60, dtype=torch.float64), "beyond the range of float32"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_real_finite_number_is_refused(case: str, tmp_path: Path) -> None:
    tensor, said = REFUSED[case]
    with pytest.raises(BadInput, match=said):
        one({"a.w": tensor})
    torch.save({"a.w": tensor}, tmp_path / "a.pt")
    with pytest.raises(BadInput, match=said):
        one(read_tensors(tmp_path / "a.pt"))


def test_a_complex_model_takes_complex_numbers() -> None:
    like = LIKE.to(torch.complex64)
    got = one({"a.w": PLAIN.to(torch.complex64) * 1j}, like)
    assert torch.equal(got.imag, PLAIN)


def test_scales_that_fit_no_row_are_refused() -> None:
    whole = torch.ones(2, 3, dtype=torch.int8)
    with pytest.raises(BadInput, match=r"its scale has shape \(3,\); one number, or one for each of the 2 rows"):
        one({"a.w": whole, "a.w.scale": torch.ones(3)})
    with pytest.raises(BadInput, match="its scale holds float32; real numbers"):
        one({"a.w": whole, "a.w.scale": torch.ones(2, device="meta")})
    with pytest.raises(BadInput, match="NaN or infinite"):
        one({"a.w": whole, "a.w.scale": torch.full((2,), torch.inf)})
