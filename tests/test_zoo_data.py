import os
import pickle  # noqa: TID251 - writes what CIFAR's makers wrote, and what must be refused

import numpy as np
import pytest
import torch
from PIL import Image

from fedspill.core.errors import BadInput
from fedspill.zoo.cut import cut
from fedspill.zoo.data import from_dataset, from_tensors, listing, load, shared_examples
from fedspill.zoo.indices import parse_indices
from fedspill.zoo.sources import photos as photos_module
from fedspill.zoo.sources.photos import PHOTOS

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


# --- folders


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


# --- archives


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
    with pytest.raises(BadInput, match="a dataset of equally large"):
        from_dataset(items)
    with pytest.raises(BadInput, match="a dataset of equally large"):
        from_dataset(3)


def test_shared_examples():
    first = from_tensors(torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1))
    second = from_tensors(torch.tensor([1.0, 0.2]).view(2, 1, 1, 1))
    assert shared_examples(first, second) == [2]
    assert shared_examples(load("photos", indices="0:100"), load("photos", split="public", indices="0:100")) == []
    assert shared_examples(first, load("photos", indices="0")) == []


# --- names, indices, cuts


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("cifar", {}, "unknown data 'cifar'; there are photos, cifar10"),
        ("folder:", {}, "unknown data"),
        ("photos", {"split": "test"}, "has no split 'test'; it has private, public"),
        ("photos", {"size": 0}, "size=0: a side length"),
        ("photos", {"indices": "0:100000"}, "out of range: the data has 2"),
    ],
)
def test_bad_names(name, change, said):
    with pytest.raises(BadInput, match=said):
        load(name, **change)


def test_listing():
    assert [e.name for e in listing()][:2] == ["photos", "cifar10"]
    assert listing()[0].splits[0] == "private"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("0:3", [0, 1, 2]),
        ("7,3", [7, 3]),
        ("0:2, 5", [0, 1, 5]),
        ("0:9:4", [0, 4, 8]),
        ([4, 2], [4, 2]),
        (None, list(range(10))),
    ],
)
def test_indices(given, expected):
    assert parse_indices(given, 10) == expected


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("8:11", "index 10 is out of range: the data has 10 examples, 0 to 9"),
        ([-1], "index -1 is out of range"),
        ("", "is no position"),
        ("1-3", "is no position"),
        ("3:3", "is empty"),
        ("0:4:0", "is no position"),
        ("1,0:2", "example 1 twice"),
        ([], "name no example"),
    ],
)
def test_bad_indices(given, said):
    with pytest.raises(BadInput, match=said):
        parse_indices(given, 10)


def _pool(labels):
    return from_tensors(torch.zeros(len(labels), 1, 2, 2), torch.tensor(labels))


def test_cut_into_consecutive_updates():
    assert cut(_pool([0, 0, 1, 1, 2]), 2) == [[0, 1], [2, 3]]


def test_cut_with_distinct_labels():
    pool = _pool([0, 0, 1, 2, 2, 1, 0, 1])
    assert cut(pool, 2, True) == [[0, 2], [3, 5], [6, 7]]
    assert cut(pool, 4, True, 2) == [[0, 2, 3, 5]]
    assert cut(pool, 3, True, 2) == [[0, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((9,), "make no update of num_examples=9"),
        ((0,), "must be at least 1"),
        ((4, True), "4 examples cannot all differ among 3 classes"),
        ((3, True), "make no update of num_examples=3 with distinct labels"),
    ],
)
def test_bad_cuts(arguments, said):
    with pytest.raises(BadInput, match=said):
        cut(_pool([0, 0, 2]), *arguments)


def test_distinct_labels_need_labels():
    with pytest.raises(BadInput, match="distinct_labels needs labels"):
        cut(from_tensors(torch.zeros(3, 1, 2, 2)), 1, True)
