import os
import pickle  # noqa: TID251 - writes what CIFAR's makers wrote, and what must be refused

import numpy as np
import pytest
import torch
from PIL import Image

from fedspill.core.errors import BadInput
from fedspill.zoo.data import from_dataset, from_tensors, load, shared_examples
from fedspill.zoo.data.sources import photos as photos_module
from fedspill.zoo.data.sources.photos import PHOTOS

# --- photographs


@pytest.mark.parametrize("split", ["private", "public"])
@pytest.mark.parametrize("size", [8, 32, 96, 224])
def test_photos(split, size):
    pool = load("photos", split=split, size=size, indices="0:20")
    assert pool.batch.inputs.shape == (20, 3, size, size)
    assert pool.input_shape == (3, size, size)
    assert pool.batch.inputs.dtype == torch.float32
    assert pool.batch.inputs.min() >= 0
    assert pool.batch.inputs.max() <= 1
    assert pool.batch.labels[:10].tolist() == list(range(10))
    assert pool.num_classes == len(pool.class_names) == 10


def test_photos_are_many_and_all_different():
    pool = load("photos")
    assert len(pool) > 1000
    assert (pool.batch.labels[1:] != pool.batch.labels[:-1]).all()
    flat = pool.batch.inputs.flatten(1)
    assert len(torch.unique((flat * 255).round(), dim=0)) == len(pool)
    assert flat.std(1).min() > 0.005


def test_private_and_public_photos_share_no_pixel():
    for photo in PHOTOS:
        (top, left, height, width), (y, x, h, w) = photo.private, photo.public
        apart = top + height <= y or y + h <= top or left + width <= x or x + w <= left
        assert apart, photo.name
    for split in ("private", "public"):
        for number, (top, left, height, width) in photos_module._order(split, 32):
            y, x, h, w = getattr(PHOTOS[number], split)
            assert y <= top < top + height <= y + h
            assert x <= left < left + width <= x + w


def test_a_private_tile_does_not_depend_on_public_pixels(monkeypatch):
    """Resizing mixes neighbouring pixels; none may come from across the border."""
    before = load("photos", size=48, indices="0:30").batch.inputs
    pictures = [picture.clone() for picture in photos_module._photographs()]
    for photo, picture in zip(PHOTOS, pictures, strict=True):
        y, x, h, w = photo.public
        picture[:, y : y + h, x : x + w] = 0
    monkeypatch.setattr(photos_module, "_photographs", lambda: tuple(pictures))
    assert torch.equal(before, load("photos", size=48, indices="0:30").batch.inputs)


def test_photo_that_the_installed_package_lacks(monkeypatch):
    gone = photos_module.Photo("x", "nobody", "skimage", "data/none.png", (0, 0, 1, 1), (0, 1, 1, 1))
    with pytest.raises(BadInput, match=r"the installed skimage does not carry data/none\.png"):
        photos_module._open(gone)


# --- CIFAR in the official layout


def _batch_file(rng, labels="labels", count=20, classes=10):
    data = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
    return {"data": data, labels: rng.integers(0, classes, count).tolist(), "batch_label": "x"}


@pytest.fixture
def cifar(tmp_path):
    """Both data sets, small, written as Python 2's pickles were (protocol 2)."""
    rng = np.random.default_rng(0)
    ten, hundred = tmp_path / "cifar-10-batches-py", tmp_path / "cifar-100-python"
    files = {ten / f"data_batch_{k}": _batch_file(rng) for k in range(1, 6)}
    files[ten / "test_batch"] = _batch_file(rng)
    files[ten / "batches.meta"] = {"label_names": [f"c{k}" for k in range(10)]}
    files[hundred / "train"] = _batch_file(rng, "fine_labels", classes=100)
    files[hundred / "test"] = _batch_file(rng, "fine_labels", classes=100)
    files[hundred / "meta"] = {"fine_label_names": [f"f{k}" for k in range(100)]}
    for path, content in files.items():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(pickle.dumps(content, protocol=2))
    return tmp_path, files


def test_cifar10(cifar, monkeypatch):
    root, files = cifar
    test = files[root / "cifar-10-batches-py" / "test_batch"]
    pool = load("cifar10", root=root, indices="3,5")
    assert pool.name == "cifar10/test"
    assert pool.indices == (3, 5)
    assert pool.batch.labels.tolist() == [test["labels"][3], test["labels"][5]]
    planes = test["data"][3].reshape(3, 32, 32)  # red, green, blue, row by row
    assert torch.equal((pool.batch.inputs[0] * 255).round().byte(), torch.from_numpy(planes))
    assert pool.mean == (0.49147, 0.48226, 0.44677)
    train = load("cifar10", root=root / "cifar-10-batches-py", split="train")
    assert len(train) == 100
    assert train.batch.labels[20:40].tolist() == files[root / "cifar-10-batches-py" / "data_batch_2"]["labels"]
    monkeypatch.setenv("FEDSPILL_DATA", str(root))
    assert load("cifar10", size=16, indices="0:4").batch.inputs.shape == (4, 3, 16, 16)


def test_cifar100(cifar):
    root, files = cifar
    pool = load("cifar100", root=root)
    assert pool.num_classes == 100
    assert pool.class_names[7] == "f7"
    assert pool.batch.labels.tolist() == files[root / "cifar-100-python" / "test"]["fine_labels"]


class Harmful:
    def __reduce__(self):
        return (os.system, ("touch harmed",))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (pickle.dumps({"data": Harmful()}, protocol=2), r"refused: it asks for (posix|nt)\.system"),
        (pickle.dumps({"data": print}), r"refused: it asks for builtins\.print"),
        (b"\x80\x02no", "is no official CIFAR file"),
        (pickle.dumps([1, 2]), "holds a list"),
        (pickle.dumps({"data": np.zeros((2, 5), np.uint8), "labels": [0, 1]}), r"shape \(n, 3072\)"),
        (pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [0]}, protocol=2), "one per image"),
        (
            pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [10]}, protocol=2),
            "labels run to 10",
        ),
    ],
)
def test_manipulated_cifar_files_are_refused(cifar, monkeypatch, content, said):
    root, _ = cifar
    monkeypatch.chdir(root)
    (root / "cifar-10-batches-py" / "test_batch").write_bytes(content)
    with pytest.raises(BadInput, match=said):
        load("cifar10", root=root)
    assert not (root / "harmed").exists()


def test_missing_cifar(cifar, monkeypatch, tmp_path_factory):
    root, _ = cifar
    monkeypatch.delenv("FEDSPILL_DATA", raising=False)
    with pytest.raises(BadInput, match="give `root` or set FEDSPILL_DATA"):
        load("cifar10")
    with pytest.raises(BadInput, match="does not exist"):
        load("cifar10", root=root / "nowhere")
    with pytest.raises(BadInput, match="does not download data"):
        load("cifar10", root=tmp_path_factory.mktemp("empty"))
    (root / "cifar-10-batches-py" / "data_batch_3").unlink()
    with pytest.raises(BadInput, match="data_batch_3' does not exist"):
        load("cifar10", root=root, split="train")


# --- the caller's own


def test_from_tensors():
    pool = from_tensors(torch.rand(3, 1, 4, 4, dtype=torch.float64), torch.tensor([0, 2, 1]), name="mine")
    assert pool.num_classes == 3
    assert pool.batch.inputs.dtype == torch.float32
    assert not from_tensors(torch.rand(3, 1, 4, 4)).has_labels


@pytest.mark.parametrize(
    ("inputs", "labels", "said"),
    [
        (torch.zeros(2, 3), None, "are needed"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), None, "floats"),
        (torch.full((2, 3, 4, 4), 2.0), None, "pixels from 2 to 2"),
        (torch.zeros(2, 3, 4, 4), torch.zeros(3, dtype=torch.long), "one class number"),
        (torch.zeros(2, 3, 4, 4), torch.zeros(2), "one class number"),
        (torch.zeros(0, 3, 4, 4), None, "0 examples"),
    ],
)
def test_bad_tensors(inputs, labels, said):
    with pytest.raises(BadInput, match=said):
        from_tensors(inputs, labels)


def test_from_dataset():
    picture = Image.new("RGB", (5, 4), (255, 0, 0))
    byte = torch.full((3, 4, 5), 255, dtype=torch.uint8)
    items = [(picture, 1), (byte, 0), (np.zeros((4, 5, 3), np.uint8), 2), (torch.zeros(1), 2)]
    pool = from_dataset(items, indices="0:3")
    assert pool.batch.inputs[:, :, 0, 0].tolist() == [[1, 0, 0], [1, 1, 1], [0, 0, 0]]
    assert pool.batch.labels.tolist() == [1, 0, 2]
    assert pool.indices == (0, 1, 2)
    with pytest.raises(BadInput, match=r"images of shape \(1,\) were got; c, h, w are needed"):
        from_dataset(items)
    with pytest.raises(BadInput, match=r"images of one shape are needed; these have \(3, 4, 5\), \(3, 4, 6\)"):
        from_dataset([(byte, 0), (torch.zeros(3, 4, 6), 1)])
    with pytest.raises(BadInput, match="TypeError.*a Dataset"):
        from_dataset(3)


def test_shared_examples():
    first = from_tensors(torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1))
    second = from_tensors(torch.tensor([1.0, 0.2]).view(2, 1, 1, 1))
    assert shared_examples(first, second) == [2]
    assert shared_examples(load("photos", indices="0:100"), load("photos", split="public", indices="0:100")) == []
    assert shared_examples(first, load("photos", indices="0")) == []
