"""Pictures of every depth are read by the range that their format has, or refused in one line."""

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from fedspill.core.errors import BadInput
from fedspill.zoo.data import load

SHARES = np.linspace(0, 1, 224, dtype=np.float64).reshape(14, 16)


def read(path):
    return load(f"folder:{path.parent}").batch.inputs[0]


@pytest.mark.parametrize("kind", ["tif", "png", "pgm"])
@pytest.mark.parametrize("bits", [8, 16])
def test_whole_numbers_are_divided_by_the_highest_of_their_depth(tmp_path, kind, bits):
    top = 2**bits - 1
    values = (SHARES * top).round().astype(np.uint8 if bits == 8 else np.uint16)
    Image.fromarray(values).save(tmp_path / f"a.{kind}")
    torch.testing.assert_close(read(tmp_path / "a")[0].double(), torch.from_numpy(values / top), atol=1e-7, rtol=0)


def test_floats_between_0_and_1_are_taken_as_they_are(tmp_path):
    Image.fromarray(SHARES.astype(np.float32)).save(tmp_path / "a.tif")
    torch.testing.assert_close(read(tmp_path / "a"), torch.from_numpy(SHARES[None]).float(), atol=0, rtol=0)


def test_twelve_bits_are_divided_by_4095(tmp_path):
    values = (SHARES * 4095).round().astype(np.uint16)
    pairs = values.reshape(14, 8, 2)
    packed = np.stack([pairs[..., 0] >> 4, (pairs[..., 0] & 15) << 4 | pairs[..., 1] >> 8, pairs[..., 1] & 255], -1)
    tags = [(256, 16), (257, 14), (258, 12), (259, 1), (262, 1), (273, 0), (277, 1), (278, 14), (279, 14 * 24)]
    head = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(
        tag.to_bytes(2, "little") + b"\4\0" + b"\1\0\0\0" + (head if tag == 273 else value).to_bytes(4, "little")
        for tag, value in tags
    )
    file = b"II*\0\x08\0\0\0" + len(tags).to_bytes(2, "little") + entries + bytes(4) + packed.astype(np.uint8).tobytes()
    (tmp_path / "a.tif").write_bytes(file)
    torch.testing.assert_close(read(tmp_path / "a")[0].double(), torch.from_numpy(values / 4095), atol=1e-7, rtol=0)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_white_may_be_zero(tmp_path, kind):
    top = np.iinfo(kind).max
    values = (SHARES * top).round().astype(kind)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="miniswhite")
    torch.testing.assert_close(read(tmp_path / "a")[0].double(), torch.from_numpy(1 - values / top), atol=1e-6, rtol=0)


def test_deep_colour_is_read_to_eight_bits(tmp_path):
    values = (np.stack([SHARES, SHARES.T.reshape(14, 16), 1 - SHARES], -1) * 65535).round().astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb")
    apart = read(tmp_path / "a").double() - torch.from_numpy(values / 65535).permute(2, 0, 1)
    assert float(apart.abs().max()) < 1 / 255


REFUSED = {
    "int32": ((SHARES * 1000).astype(np.int32), "whole numbers of 32 bits, whose range nothing tells"),
    "floats to 255": (
        (SHARES * 255).astype(np.float32),
        r"pixels from 0 to 255; values in \[0, 1\] are needed",
    ),
    "normalised": (((SHARES - 0.5) / 0.25).astype(np.float32), "normalising is the model's"),
    "not a number": (np.full((4, 4), np.nan, np.float32), "NaN or infinite"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_range_that_nothing_tells_is_refused(tmp_path, case):
    values, said = REFUSED[case]
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(BadInput, match=said) as error:
        load(f"folder:{tmp_path}")
    assert "a.tif" in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("cut", [0, 1, 9, 40, 70])
def test_a_broken_picture_is_one_line(tmp_path, cut):
    Image.fromarray((SHARES * 255).astype(np.uint8)).save(tmp_path / "whole.png")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "a.png").write_bytes((tmp_path / "whole.png").read_bytes()[:cut])
    with pytest.raises(BadInput, match=r"a\.png' cannot be read"):
        load(f"folder:{tmp_path / 'own'}")


def test_a_size_that_no_memory_holds_is_refused(tmp_path):
    for size, said in [(10**9, "from 1 to 32768 is needed"), (32768, "of memory, this machine has")]:
        with pytest.raises(BadInput, match=said):
            load("photos", size=size, indices="0:10")
