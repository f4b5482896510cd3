"""Folders of pictures and archives as private data."""

import numpy as np
import pytest
import torch
from PIL import Image

from fedspill.core.errors import BadInput
from fedspill.zoo.data import load


def _picture(path, height=12, width=10, mode="RGB", value=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(path.name))
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    array = rng.integers(0, 256, shape, dtype=np.uint8) if value is None else np.full(shape, value)
    Image.fromarray(array).save(path)
    return array


def test_folder_with_classes(tmp_path):
    exact = _picture(tmp_path / "a" / "1.png")
    _picture(tmp_path / "a" / "2.jpg")
    _picture(tmp_path / "b" / "1.bmp", mode="L")
    (tmp_path / "b" / "notes.txt").write_text("no image")
    pool = load(f"folder:{tmp_path}")
    assert pool.class_names == ("a", "b")
    assert pool.batch.labels.tolist() == [0, 0, 1]
    assert pool.input_shape == (3, 12, 10)
    assert torch.equal((pool.batch.inputs[0] * 255).round().byte().permute(1, 2, 0), torch.from_numpy(exact))
    assert load(f"folder:{tmp_path}", indices="2").input_shape == (1, 12, 10)
    assert load(f"folder:{tmp_path}", split="b").batch.inputs.shape == (1, 1, 12, 10)


def test_folder_without_classes(tmp_path, monkeypatch):
    _picture(tmp_path / "own" / "1.png", 20, 30)
    _picture(tmp_path / "own" / "2.png", 8, 8)
    monkeypatch.setenv("FEDSPILL_DATA", str(tmp_path))
    pool = load("folder:own", size=16)
    assert pool.batch.inputs.shape == (2, 3, 16, 16)
    assert not pool.has_labels
    assert pool.num_classes == 1
    with pytest.raises(BadInput, match=r"differ in size .* give `size`"):
        load("folder:own")


def test_centre_is_kept(tmp_path):
    array = np.zeros((10, 30, 3), np.uint8)
    array[:, 10:20] = 200
    Image.fromarray(array).save(tmp_path / "1.png")
    assert torch.allclose(load(f"folder:{tmp_path}", size=5).batch.inputs, torch.tensor(200 / 255))


def test_sixteen_bit_and_transparent_pictures(tmp_path):
    _picture(tmp_path / "deep" / "1.png", mode="L", value=np.uint16(32768))
    assert load(f"folder:{tmp_path / 'deep'}").batch.inputs.mean() == pytest.approx(32768 / 65535)
    Image.new("RGBA", (4, 4), (255, 0, 0, 128)).save(tmp_path / "clear.png")
    _picture(tmp_path / "deep.png", 4, 4, mode="L", value=np.uint16(65535))
    assert load(f"folder:{tmp_path}").batch.inputs[:, :, 0, 0].tolist() == [[1, 0, 0], [1, 1, 1]]


def test_bad_folders(tmp_path):
    with pytest.raises(BadInput, match="does not exist"):
        load(f"folder:{tmp_path / 'none'}")
    with pytest.raises(BadInput, match="no images in"):
        load(f"folder:{tmp_path}")
    (tmp_path / "1.png").write_bytes(b"no picture")
    with pytest.raises(BadInput, match=r"1\.png' cannot be read"):
        load(f"folder:{tmp_path}")
    _picture(tmp_path / "1.png")
    whole = (tmp_path / "1.png").read_bytes()
    (tmp_path / "1.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInput, match="cannot be read"):
        load(f"folder:{tmp_path}")
    with pytest.raises(BadInput, match="has no subfolder 'test'"):
        load(f"folder:{tmp_path}", split="test")


def _archive(path, **arrays):
    np.savez(path, **arrays)
    return f"npz:{path}"


def test_medmnist_layout(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 7), ("val", 3), ("test", 4)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        arrays[f"{split}_labels"] = rng.integers(0, 5, (count, 1))
    name = _archive(tmp_path / "m.npz", **arrays)
    pool = load(name)
    assert pool.name.endswith("/test")
    assert pool.batch.inputs.shape == (4, 1, 28, 28)
    assert pool.batch.labels.tolist() == arrays["test_labels"][:, 0].tolist()
    assert len(load(name, split="train", size=14)) == 7
    with pytest.raises(BadInput, match="no array 'images' for split 'all'; it has train_images"):
        load(name, split="all")


def test_plain_archive(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, 6, 5, 3), dtype=np.uint8)
    name = _archive(tmp_path / "p.npz", images=images, labels=np.array([2, 0, 2]), label_names=np.array(list("abcd")))
    pool = load(name, indices=[2, 0])
    assert pool.class_names == tuple("abcd")
    assert pool.num_classes == 4
    assert pool.batch.labels.tolist() == [2, 2]
    assert torch.equal((pool.batch.inputs[0] * 255).round().byte().permute(1, 2, 0), torch.from_numpy(images[2]))
    unlabelled = load(_archive(tmp_path / "u.npz", images=np.zeros((2, 1, 4, 4), np.float32)))
    assert not unlabelled.has_labels
    assert unlabelled.input_shape == (1, 4, 4)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"images": np.zeros((2, 4))}, "images have shape"),
        ({"images": np.zeros((2, 4, 4), np.int64)}, "images of type int64"),
        ({"images": np.full((2, 4, 4), 255.0)}, "pixels from 255 to 255"),
        ({"images": np.full((2, 4, 4), np.nan)}, "NaN"),
        ({"images": np.zeros((2, 4, 4)), "labels": np.zeros((2, 14), int)}, "one class number"),
        ({"images": np.zeros((2, 4, 4)), "labels": np.array([0, -1])}, "one class number"),
        (
            {"images": np.zeros((2, 4, 4)), "labels": np.array([0, 3]), "label_names": ["a"]},
            "labels run to 3",
        ),
        ({"images": np.zeros((2, 4, 4)), "labels": np.array([0, None])}, "no .npz archive of plain arrays"),
        ({"pictures": np.zeros((2, 4, 4))}, "no array 'images'"),
    ],
)
def test_bad_archives(tmp_path, arrays, said):
    with pytest.raises(BadInput, match=said):
        load(_archive(tmp_path / "bad.npz", **arrays))


def test_files_that_are_no_archives(tmp_path):
    with pytest.raises(BadInput, match="does not exist"):
        load(f"npz:{tmp_path / 'none.npz'}")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(BadInput, match=r"no \.npz archive of plain arrays"):
        load(f"npz:{tmp_path / 'text.npz'}")
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(BadInput, match=r"no \.npz archive of plain arrays"):
        load(f"npz:{tmp_path / 'one.npy'}")
