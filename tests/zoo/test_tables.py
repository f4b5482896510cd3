"""Tables: CSV, Adult, scikit-learn's own, what a scenario makes of them, and rows that are read exactly."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn import datasets

from fedspill.core.errors import BadInput
from fedspill.core.inputs import CategoricalColumn, NumericColumn, TableSpec
from fedspill.zoo.data import from_rows, load

EMBEDDED = ("breast_cancer", "wine", "iris", "diabetes")
real_data = pytest.mark.skipif("FEDSPILL_DATA" not in os.environ, reason="FEDSPILL_DATA names no folder with tabular/")

PEOPLE = (
    '\ufeffage, town ,weight,"paid, yearly",constant,class\n'
    "39,Bath,70.5,?,5,no\n"
    '50,"Bath, Avon",82.25,1000,5,yes\n'
    '38,"say ""hi""",61,,5,no\n'
)


def write(folder: Path, text: str) -> str:
    (folder / "t.csv").write_text(text, encoding="utf-8")
    return f"csv:{folder / 't.csv'}"


# --- CSV


def test_a_csv_file_with_quotes_gaps_and_steps(tmp_path: Path) -> None:
    pool = load(write(tmp_path, PEOPLE))
    assert isinstance(pool.spec, TableSpec)
    age, town, weight, paid, constant = pool.spec.columns
    ages = np.array([39.0, 50.0, 38.0])
    assert age == NumericColumn("age", ages.mean(), ages.std(), 38.0, 50.0, 1.0)
    assert town == CategoricalColumn("town", ("Bath", "Bath, Avon", 'say "hi"'))
    assert isinstance(weight, NumericColumn)
    assert (weight.low, weight.high, weight.step) == (61.0, 82.25, 0.01)
    assert paid == CategoricalColumn("paid, yearly", ("", "1000", "?"))
    assert isinstance(constant, NumericColumn)
    assert constant.std == 1.0
    assert torch.equal(pool.batch.inputs, torch.tensor([[39, 0, 70.5, 2, 5], [50, 1, 82.25, 1, 5], [38, 2, 61, 0, 5]]))
    assert (pool.class_names, pool.batch.labels.tolist()) == (("no", "yes"), [0, 1, 0])
    assert pool.show is not None
    assert pool.show(pool.batch.inputs[1:2]) == [
        "age = 50, town = Bath, Avon, weight = 82.25, paid, yearly = 1000, constant = 5"
    ]
    assert torch.equal(pool.spec.decode(pool.spec.encode(pool.batch.inputs)), pool.batch.inputs)


def test_the_label_may_be_any_column(tmp_path: Path) -> None:
    pool = load(write(tmp_path, "a,b,c\n10,1,x\n9,2,y\n10,3,x\n"), label="a")
    assert (pool.class_names, pool.batch.labels.tolist()) == (("9", "10"), [1, 0, 1])
    assert isinstance(pool.spec, TableSpec)
    assert [c.name for c in pool.spec.columns] == ["b", "c"]


@pytest.mark.parametrize(
    ("texts", "step"),
    [
        (["1", "2.0", "1e2"], 1.0),
        (["0.5", "1.25", ".125"], 0.001),
        (["1.5e-3", "2"], 0.0001),
        (["0.1234567", "3000.5"], None),
        (["16777217", "3"], None),
        (["-5", "+7"], 1.0),
    ],
)
def test_steps_come_from_the_text(tmp_path: Path, texts: list[str], step: float | None) -> None:
    lines = [f"{text},{k}" for k, text in enumerate(texts)]
    spec = load(write(tmp_path, "\n".join(["a,b", *lines]))).spec
    assert isinstance(spec, TableSpec)
    column = spec.columns[0]
    assert isinstance(column, NumericColumn)
    assert column.step == step


@pytest.mark.parametrize("word", ["nan", "inf", "1_000", "0x10", ""])
def test_words_that_python_would_take_for_numbers(tmp_path: Path, word: str) -> None:
    spec = load(write(tmp_path, f"a,b\n1,x\n{word},y\n")).spec
    assert isinstance(spec, TableSpec)
    assert isinstance(spec.columns[0], CategoricalColumn)


@pytest.mark.parametrize(
    ("text", "given", "said"),
    [
        ("a,b\n1,2\n3\n", {}, "row 2 has 1 cells; its 2 columns need as many"),
        ("a,a\n1,2\n", {}, "names the column 'a' twice"),
        ("a\n1\n", {}, "has 1 columns and 1 rows"),
        ("a,b\n", {}, "has 2 columns and 0 rows"),
        ("", {}, "has 0 columns"),
        ("a,b\n1,2\n", {"label": "c"}, "has no column 'c' for the label; it has a, b"),
        ("a,b\n" + "".join(f"{k},{k}.5\n" for k in range(1001)), {}, "'b' holds 1001 different words.* at most 1000"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path: Path, text: str, given: dict, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        load(write(tmp_path, text), **given)


def test_a_table_that_is_not_there() -> None:
    with pytest.raises(BadInput, match=r"nowhere\.csv' cannot be read as CSV"):
        load("csv:nowhere.csv")
    with pytest.raises(BadInput, match=r"Adult needs the file .*adult_columns\.txt"):
        load("adult", root=Path(__file__).parent)


# --- Adult


def test_adult_in_small(tmp_path: Path) -> None:
    folder = tmp_path / "tabular"
    folder.mkdir()
    (folder / "adult_columns.txt").write_text("age,workclass,income\n")
    (folder / "adult.data").write_text("39, State-gov, <=50K\n50, ?, >50K\n\n")
    (folder / "adult.test").write_text("|1x3 Cross validator\n17, Private, >50K.\n\n")
    train, test = load("adult", root=tmp_path, split="train"), load("adult", root=tmp_path)
    assert train.spec == test.spec
    assert isinstance(test.spec, TableSpec)
    age, work = test.spec.columns
    assert isinstance(age, NumericColumn)
    assert age.mean == pytest.approx((39 + 50 + 17) / 3)
    assert work == CategoricalColumn("workclass", ("?", "Private", "State-gov"))
    assert (train.batch.labels.tolist(), test.batch.labels.tolist()) == ([0, 1], [1])
    assert test.class_names == ("<=50K", ">50K")


@real_data
def test_every_row_of_adult_there_and_back() -> None:
    folder = Path(os.environ["FEDSPILL_DATA"]) / "tabular"
    header = (folder / "adult_columns.txt").read_text().strip().split(",")
    for split, file, count in (("train", "adult.data", 32561), ("test", "adult.test", 16281)):
        pool = load("adult", split=split)
        assert isinstance(pool.spec, TableSpec)
        assert len(pool) == count
        back = pool.spec.decode(pool.spec.encode(pool.batch.inputs))
        assert torch.equal(back, pool.batch.inputs)
        lines = [line for line in (folder / file).read_text().splitlines() if line.count(",") == 14]
        cells = [[cell.strip() for cell in line.split(",")] for line in lines]
        assert pool.show is not None
        told = [", ".join(map(" = ".join, zip(header[:-1], row[:-1], strict=True))) for row in cells[::9]]
        assert pool.show(back[::9]) == told
        assert pool.batch.labels.tolist() == [int(row[-1].startswith(">")) for row in cells]


# --- scikit-learn's own


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_tables_are_shared_out_once(name: str) -> None:
    held = getattr(datasets, f"load_{name}")(**({"scaled": False} if name == "diabetes" else {}))
    private, public = load(name), load(name, split="public")
    assert private.spec == public.spec
    both = torch.cat([private.batch.inputs, public.batch.inputs])
    assert sorted(both.tolist()) == sorted(held.data.astype(np.float32).tolist())
    assert abs(len(private) - len(public)) <= 1
    assert isinstance(private.spec, TableSpec)
    for column, values in zip(private.spec.columns, held.data.T, strict=True):
        assert isinstance(column, NumericColumn)
        assert column.mean == pytest.approx(values.mean(), rel=1e-12)
        assert column.std == pytest.approx(values.std(), rel=1e-9)
        assert (column.low, column.high) == (values.min(), values.max())
    back = private.spec.decode(private.spec.encode(private.batch.inputs))
    stepped = [k for k, c in enumerate(private.spec.columns) if isinstance(c, NumericColumn) and c.step]
    assert len(stepped) >= len(private.spec.columns) - 2
    assert torch.equal(back[:, stepped], private.batch.inputs[:, stepped])


@pytest.mark.parametrize("name", EMBEDDED)
def test_classes_are_mixed_and_true(name: str) -> None:
    private = load(name)
    counts = torch.bincount(private.batch.labels[:20], minlength=private.num_classes)
    assert int(counts.min()) >= 3
    if name == "diabetes":
        return
    held = getattr(datasets, f"load_{name}")()
    rows = map(tuple, held.data.astype(np.float32).tolist())
    truth = {row: str(held.target_names[k]) for row, k in zip(rows, held.target, strict=True)}
    named = [private.class_names[k] for k in private.batch.labels.tolist()]
    assert named == [truth[tuple(row)] for row in private.batch.inputs.tolist()]


def test_diabetes_is_parted_at_the_median() -> None:
    pools = [load("diabetes", split=s) for s in ("private", "public")]
    held = datasets.load_diabetes(scaled=False)
    above = sum(int((p.batch.labels == p.class_names.index("above the median")).sum()) for p in pools)
    assert above == int((held.target > np.median(held.target)).sum())


# --- the caller's own

SPEC = TableSpec((NumericColumn("a", 2.0, 1.0, 0.0, 4.0, 1.0), CategoricalColumn("b", ("x", "y"))))


def test_rows_of_the_caller() -> None:
    pool = from_rows(torch.tensor([[1.0, 0.0], [4.0, 1.0]]), torch.tensor([0, 1]), SPEC)
    assert (pool.spec, pool.num_classes, pool.input_shape) == (SPEC, 2, (3,))
    assert pool.show is not None
    assert pool.show(pool.batch.inputs) == ["a = 1, b = x", "a = 4, b = y"]
    assert not from_rows(torch.tensor([[1.0, 0.0]]), None, SPEC).has_labels


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([[5.0, 0.0]], "column 'a' holds 5.0; numbers from 0 to 4 are needed"),
        ([[float("nan"), 0.0]], "column 'a' holds nan"),
        ([[1.0, 2.0]], "column 'b' holds 2.0; positions of categories from 0 to 1"),
        ([[1.0, 0.5]], "column 'b' holds 0.5"),
        ([[1.0]], r"floats \(n, 2\) are needed"),
    ],
)
def test_rows_that_their_columns_do_not_allow(rows: list, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        from_rows(torch.tensor(rows), None, SPEC)
