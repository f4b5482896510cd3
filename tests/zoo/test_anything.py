"""One set of images and labels in every form that people hold it in gives one pool."""

import sys
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from fedspill.core.errors import BadInput
from fedspill.zoo.data import load, pool_of, takes

BYTES = torch.randint(256, (5, 3, 6, 7), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
FLOATS = BYTES / 255
LABELS = torch.tensor([2, 0, 1, 2, 1])
ARRAYS = BYTES.permute(0, 2, 3, 1).contiguous().numpy()
PICTURES = [Image.fromarray(a) for a in ARRAYS]
NUMBERS = LABELS.tolist()


class Rows:
    """Hugging Face's `Dataset`, as far as it matters here."""

    features: ClassVar = {"img": None, "label": SimpleNamespace(names=["ant", "bee", "cow", "dog"])}

    def __len__(self):
        return len(PICTURES)

    def __getitem__(self, k):
        return {"img": PICTURES[k], "label": NUMBERS[k]}


class Stream(IterableDataset):
    def __iter__(self):
        return iter(zip(FLOATS, NUMBERS, strict=True))


class Doubled(DataLoader):
    """A loader that does more than to hand on its data set."""

    def __iter__(self):
        return ((images * 0 + FLOATS, labels) for images, labels in super().__iter__())


whole = TensorDataset(FLOATS, LABELS)
FORMS = {
    "tensors": (FLOATS, LABELS),
    "bytes": (BYTES, LABELS),
    "channels last": (BYTES.permute(0, 2, 3, 1), LABELS),
    "list of two": [FLOATS, LABELS],
    "arrays": (ARRAYS, LABELS.numpy()),
    "arrays of MedMNIST": (ARRAYS, LABELS.numpy()[:, None].astype(np.uint8)),
    "arrays of 16 bits": (ARRAYS.astype(np.uint16) * 257, NUMBERS),
    "arrays of floats": (FLOATS.numpy(), LABELS.numpy().astype(np.int32)),
    "lists of pictures and labels": (PICTURES, NUMBERS),
    "list of pairs": list(zip(PICTURES, NUMBERS, strict=True)),
    "tuple of pairs": tuple(zip(list(FLOATS), list(LABELS), strict=True)),
    "list of rows": [{"image": a, "label": np.int64(k)} for a, k in zip(ARRAYS, NUMBERS, strict=True)],
    "columns": {"pixel_values": FLOATS, "labels": LABELS},
    "a data set": whole,
    "a subset": Subset(TensorDataset(FLOATS.flip(0), LABELS.flip(0)), [4, 3, 2, 1, 0]),
    "Hugging Face": Rows(),
    "a stream": Stream(),
    "a loader": DataLoader(whole, batch_size=2, shuffle=True),
    "a loader of a part": DataLoader(TensorDataset(FLOATS.repeat(2, 1, 1, 1), LABELS.repeat(2)), 2, sampler=range(5)),
    "a loader with a collate": DataLoader(
        whole, 2, collate_fn=lambda rows: {"x": torch.stack([x for x, _ in rows]), "y": [int(y) for _, y in rows]}
    ),
    "a loader of its own kind": Doubled(TensorDataset(FLOATS * 0, LABELS), batch_size=5),
    "a loader of a stream": DataLoader(Stream(), batch_size=2),
    "a loader of single items": DataLoader(Stream(), batch_size=None),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_pool(form: str) -> None:
    pool = pool_of(FORMS[form])
    torch.testing.assert_close(pool.batch.inputs, FLOATS, atol=1e-7, rtol=0)
    assert pool.batch.labels.tolist() == NUMBERS
    assert pool.has_labels
    assert pool.num_classes == (4 if form == "Hugging Face" else 3)
    some = pool_of(FORMS[form], "3,1")
    torch.testing.assert_close(some.batch.inputs, FLOATS[[3, 1]], atol=1e-7, rtol=0)
    assert some.batch.labels.tolist() == [2, 0]
    assert some.indices == (3, 1)


def test_what_has_no_labels_says_so() -> None:
    for data in (PICTURES, (FLOATS, None), TensorDataset(FLOATS), DataLoader(TensorDataset(FLOATS), 2), {"x": FLOATS}):
        pool = pool_of(data)
        assert not pool.has_labels
        torch.testing.assert_close(pool.batch.inputs, FLOATS, atol=1e-7, rtol=0)


def test_grey_pictures_stay_grey_unless_they_stand_among_coloured_ones() -> None:
    grey = [picture.convert("L") for picture in PICTURES]
    assert pool_of((grey, NUMBERS)).input_shape == (1, 6, 7)
    assert pool_of((np.stack([np.asarray(g) for g in grey]), NUMBERS)).input_shape == (1, 6, 7)
    mixed = pool_of([(grey[0], 0), (PICTURES[1], 1)]).batch.inputs
    assert mixed.shape == (2, 3, 6, 7)
    assert torch.equal(mixed[0, 0], mixed[0, 2])


def test_a_pool_is_kept_and_cut() -> None:
    pool = pool_of((FLOATS, LABELS))
    assert pool_of(pool) is pool
    assert pool_of(pool, "4").indices == (4,)


class Restless(Dataset):
    def __init__(self) -> None:
        self.asked = 0

    def __len__(self) -> int:
        return 3

    def __getitem__(self, k: int):
        self.asked += 1
        return FLOATS[self.asked % 2], 0


NORMALISED = (FLOATS - 0.5) / 0.25
REFUSED = {
    "normalised": ((NORMALISED, LABELS), r"pixels from -2 to 2; .*normalising is the model's"),
    "normalised items": (TensorDataset(NORMALISED, LABELS), "normalising is the model's"),
    "a normalising loader": (
        DataLoader(whole, 2, collate_fn=lambda rows: (torch.stack([x * 4 - 2 for x, _ in rows]), [0] * len(rows))),
        "normalising is the model's",
    ),
    "floats to 255": ((FLOATS * 255, LABELS), "divide by 255"),
    "whole numbers": ((FLOATS.long(), LABELS), "images of torch.int64"),
    "another picture each time": (Restless(), "another picture each time"),
    "labels of text": ([(p, "cat") for p in PICTURES], "'cat' is no class number"),
    "labels that are fractions": ((FLOATS, LABELS + 0.5), "one class number"),
    "labels for some": ([(PICTURES[0], 1), (PICTURES[1], None)], "1 of 2 examples have a label"),
    "too few labels": ((FLOATS, LABELS[:3]), "one class number from 0 for each of 5"),
    "three things": ((FLOATS, LABELS, LABELS), "3 things; a pair"),
    "splits": ({"train": Rows(), "test": Rows()}, "of several splits give one"),
    "rows by other names": ([{"picture": 1}], "has the keys picture"),
    "three in an item": ([(PICTURES[0], 1, 2)] * 3, "tuple of 3; .image, label"),
    "images without labels beside": (FLOATS, "data is a Tensor; a pair"),
    "a name": ("photos", "data is a str; a pair"),
    "a number": (3, "data is a int; a pair"),
    "nothing": ([], "0 things; a pair"),
    "an empty stack": ((FLOATS[:0], LABELS[:0]), "at least 1 example is needed"),
    "no pixels": ((FLOATS[:, :, :0], LABELS), "without a pixel"),
    "a list of words": (["a", "b", "c"], "3 things; a pair"),
    "sentences": ((torch.zeros(4, 8, dtype=torch.uint8), LABELS[:4]), "were got; n, c, h, w are needed"),
    "a data set that fails": (SimpleNamespace(__len__=3, __getitem__=4), "cannot be read .TypeError"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_refused_in_one_line(case: str) -> None:
    data, said = REFUSED[case]
    with pytest.raises(BadInput, match=said) as error:
        pool_of(data)
    assert len(str(error.value).splitlines()) == 1


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_data_of_a_user.py").write_text(
        "import torch\n"
        "from torch.utils.data import TensorDataset\n"
        "def pair(split='train'):\n"
        "    return torch.full((4, 3, 5, 5), 0.5 if split == 'train' else 0.25), torch.tensor([0, 1, 2, 3])\n"
        "def dataset():\n    return TensorDataset(*pair())\n"
        "def wrong():\n    return 3\n"
        "def fails():\n    return 1 / 0\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(tmp_path)])
    yield "own_data_of_a_user"
    sys.modules.pop("own_data_of_a_user", None)


def test_a_plan_may_name_a_factory(own: str) -> None:
    pool = load(f"{own}:pair", indices="1:3")
    assert pool.batch.labels.tolist() == [1, 2]
    assert pool.indices == (1, 2)
    assert pool.name == f"{own}:pair/all"
    assert load(f"{own}:pair", split="test").batch.inputs.unique().item() == 0.25
    assert torch.equal(load(f"{own}:dataset").batch.inputs, load(f"{own}:pair").batch.inputs)
    assert takes(f"{own}:pair") == ()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("wrong", "data is a int; a pair"),
        ("fails", "ZeroDivisionError: division by zero"),
        ("none", "AttributeError"),
    ],
)
def test_a_factory_that_is_of_no_use_is_told(own: str, name: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        load(f"{own}:{name}")
    with pytest.raises(BadInput, match="ModuleNotFoundError"):
        load(f"no_such_module_{name}:make")
    with pytest.raises(BadInput, match="takes no 'size'"):
        load(f"{own}:pair", size=3)
