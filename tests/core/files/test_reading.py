"""Files of weights and updates, read by what they hold; what cannot be read is one line."""

import os
import pickle  # noqa: TID251 - files of others are made here
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fedspill.core.errors import BadInput
from fedspill.core.files.contents import named_tensors
from fedspill.core.files.reading import read_folder, read_tensors
from fedspill.zoo.models.trained import from_file
from tests.support.files import array_record, claiming, encrypted, field, oddly_compressed, saved_arrays, with_member

STATE = {"b.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.tensor([0.5, -0.5])}


def same(got: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor] = STATE) -> bool:
    return got.keys() == wanted.keys() and all(torch.equal(got[k], v) for k, v in wanted.items())


def test_every_format_gives_the_same_tensors_whatever_the_file_is_called(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "a.safetensors")
    torch.save(STATE, tmp_path / "b.pt")
    torch.save(STATE, tmp_path / "c.pt", _use_new_zipfile_serialization=False)
    saved_arrays(tmp_path / "d.npz", {k: v.numpy() for k, v in STATE.items()})
    np.savez_compressed(tmp_path / "e.npz", **{k: v.numpy() for k, v in STATE.items()})
    (tmp_path / "f.pb").write_bytes(array_record(STATE))
    for file in [*tmp_path.iterdir()]:
        assert same(read_tensors(file)), file.name
        if file.suffix not in (".npz", ".safetensors"):
            file.rename(tmp_path / f"{file.stem}.bin")
            assert same(read_tensors(tmp_path / f"{file.stem}.bin"))
    for name in ("d.npz", "a.safetensors"):
        (tmp_path / name).rename(tmp_path / f"{name}.bin")
        assert same(read_tensors(tmp_path / f"{name}.bin"))


def test_lists_are_numbered_and_nests_are_told_from_modules(tmp_path: Path) -> None:
    arrays = [v.numpy() for v in STATE.values()]
    wanted = {"arr_0": STATE["b.weight"], "arr_1": STATE["a.bias"]}
    assert same(read_tensors(saved_arrays(tmp_path / "list.npz", arrays)), wanted)
    torch.save(list(STATE.values()), tmp_path / "list.pt")
    assert same(read_tensors(tmp_path / "list.pt"), wanted)
    assert same(named_tensors(arrays, "it"), wanted)
    np.save(tmp_path / "one.npy", arrays[0])
    assert same(read_tensors(tmp_path / "one.npy"), {"arr_0": STATE["b.weight"]})
    torch.save({"epoch": 3, "net": STATE, "optim": {"lr": 0.1, "state": {0: {"m": torch.ones(1)}}}}, tmp_path / "n.pt")
    read = read_tensors(tmp_path / "n.pt")
    assert sorted(read) == ["net > a.bias", "net > b.weight", "optim > state > 0 > m"]


def test_what_python_holds_is_read_alike() -> None:
    class Array:
        """As Flower's `Array` is."""

        def __init__(self, value: torch.Tensor) -> None:
            self.value = value

        def numpy(self) -> np.ndarray:
            return self.value.numpy()

    class Record:
        def to_torch_state_dict(self) -> dict[str, torch.Tensor]:
            return dict(STATE)

    assert same(named_tensors({k: v.numpy() for k, v in STATE.items()}, "it"))
    assert same(named_tensors({k: Array(v) for k, v in STATE.items()}, "it"))
    assert same(named_tensors(Record(), "it"))
    with torch.random.fork_rng():
        module = torch.nn.Linear(3, 2)
    assert same(named_tensors(module, "it"), dict(module.state_dict()))


@pytest.mark.parametrize(
    ("array", "wanted"),
    [
        (np.array([1.5, -2.0], ">f4"), torch.tensor([1.5, -2.0])),
        (np.array([1.5, -2.0], np.longdouble), torch.tensor([1.5, -2.0], dtype=torch.float64)),
        (np.array([1, 70000], np.uint32), torch.tensor([1, 70000])),
        (np.array([1.5, -2.0], np.float16), torch.tensor([1.5, -2.0], dtype=torch.float16)),
        (np.array([0x3FC0, 0xC000], "<u2").view("V2"), torch.tensor([1.5, -2.0], dtype=torch.bfloat16)),
        (np.asfortranarray(np.arange(6.0).reshape(2, 3)), torch.arange(6.0, dtype=torch.float64).reshape(2, 3)),
        (np.float32(2.5), torch.tensor(2.5)),
    ],
    ids=["big-endian", "long double", "unsigned", "half", "bfloat16", "columns first", "one number"],
)
def test_arrays_of_every_type_keep_their_numbers(array: np.ndarray, wanted: torch.Tensor, tmp_path: Path) -> None:
    got = read_tensors(saved_arrays(tmp_path / "a.npz", {"w": np.asarray(array)}))["w"]
    assert got.dtype == wanted.dtype
    assert torch.equal(got, wanted)


def outside() -> torch.Tensor:
    """A sparse tensor of 2 numbers with one at place 9."""
    return torch.sparse_coo_tensor(torch.tensor([[9]]), torch.ones(1), (2,), check_invariants=False)


class Harmful:
    def __reduce__(self):
        return (os.system, ("touch harmed",))


def endless() -> dict[str, object]:
    content: dict[str, object] = {"w": torch.ones(1)}
    content["self"] = content
    return content


BROKEN = {
    "pickle in npz": ("a.npz", lambda p: np.savez(p, w=np.array([Harmful()], dtype=object)), "plain arrays"),
    "text in npz": ("a.npz", lambda p: np.savez(p, w=np.array(["x"])), "'w' holds text; numbers are needed"),
    "encrypted": ("a.npz", encrypted, "is encrypted"),
    "oddly compressed": ("a.npz", oddly_compressed, "no .npz archive of plain arrays"),
    "no array": ("a.npz", lambda p: with_member(p, "notes.txt", b"hello"), "member 'notes.txt' is no array"),
    "no header": ("a.npz", lambda p: with_member(p, "w.npy", b"hello"), "no .npz archive of plain arrays"),
    "too few bytes": ("a.npz", lambda p: with_member(p, "w.npy", claiming("(9,)")), "no .npz archive of plain arrays"),
    "overflow": ("a.npz", lambda p: with_member(p, "w.npy", claiming("(2**62,)")), "no .npz archive of plain arrays"),
    "huge": ("a.npz", lambda p: with_member(p, "w.npy", claiming(f"({10**13},)")), "no .npz archive of plain arrays"),
    "negative": ("a.npz", lambda p: with_member(p, "w.npy", claiming("(-2,)")), "no .npz archive of plain arrays"),
    "digits": ("a.npz", lambda p: with_member(p, "w.npy", claiming(f"({'9' * 60},)")), "no .npz archive"),
    "empty npz": ("a.npz", lambda p: zipfile.ZipFile(p, "w").close(), "holds no array"),
    "no bytes": ("a.npz", lambda p: p.write_bytes(b""), "is an empty file"),
    "cut npy": ("a.npy", lambda p: p.write_bytes(claiming("(9,)")), "no .npy file of plain numbers"),
    "pickled npy": ("a.npy", lambda p: np.save(p, {"w": 1}, allow_pickle=True), "no .npy file of plain numbers"),
    "code": ("a.pt", lambda p: torch.save({"w": Harmful()}, p), "it holds posix.system, which is no tensor; save a"),
    "bare pickle": ("a.pkl", lambda p: p.write_bytes(pickle.dumps(Harmful())), "fedspill never unpickles"),
    "outside": ("a.pt", lambda p: torch.save({"w": outside()}, p), "cannot be read as tensors only"),
    "endless": ("a.pt", lambda p: torch.save(endless(), p), "nested more than 16 deep, or without end"),
    "nothing": ("a.pt", lambda p: torch.save({"a": {"lr": 0.1}}, p), "holds no tensor"),
    "record": ("a.pb", lambda p: p.write_bytes(field(1, b"\xff" * 9)), "nor a serialised ArrayRecord"),
    "cut record": ("a.pb", lambda p: p.write_bytes(array_record(STATE)[:-9]), "nor a serialised ArrayRecord"),
    "random zip": ("a.bin", lambda p: with_member(p, "a.txt", b"a"), "cannot be read as tensors only"),
    "null byte": ("a\0.npz", lambda p: None, "does not exist"),
    "long name": ("a" * 300, lambda p: None, "cannot be opened"),
    "folder": ("a.pt", lambda p: p.mkdir(), "is a folder; a file is needed"),
    "claimed size": ("a.safetensors", lambda p: p.write_bytes(b"\xff" * 7 + b"\x7f{}"), "no whole safetensors file"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_cannot_be_read_is_one_line_and_runs_nothing(case: str, tmp_path: Path, monkeypatch) -> None:
    name, write, said = BROKEN[case]
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write(tmp_path / name)
    with pytest.raises(BadInput) as caught:
        read_tensors(tmp_path / name)
    message = str(caught.value)
    assert said in message
    assert "\n" not in message
    assert len(message) < 700
    assert not (tmp_path / "harmed").exists()


def test_an_archive_larger_than_the_memory_is_refused(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "zeros.npz"
    np.savez_compressed(path, w=np.zeros(1 << 20, np.float32))
    monkeypatch.setattr("fedspill.core.files.archives.free_bytes", lambda device: 1 << 20)
    with pytest.raises(BadInput, match=r"unpacks to 4.19 MB; 1.05 MB of memory are free"):
        read_tensors(path)


def test_a_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds no file"):
        read_folder(tmp_path)
    (tmp_path / ".hidden").write_bytes(b"")
    for number in (2, 1):
        save_file({"w": torch.full((1,), float(number))}, tmp_path / f"client{number}.safetensors")
    read = read_folder(tmp_path)
    assert [(name, float(held["w"])) for name, held in read.items()] == [
        ("client1.safetensors", 1.0),
        ("client2.safetensors", 2.0),
    ]


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".npz", ".npy", ".bin"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is an empty file"),
        (b"lr = 0.1\nepochs = 3\n", "is a text file .it begins 'lr = 0.1 epochs = 3'"),
        ("Gewichte: ä".encode("utf-16"), "is a text file .it begins 'Gewichte: ä'"),
        ("é".encode() * 4096, "is a text file"),
        (b"a" * 4095 + "é".encode(), "is a text file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "is a Git LFS pointer"),
        (b"\x89HDF\r\n\x1a\n\0\0", "is an HDF5 file"),
        (b"\x1f\x8b\x08\0\0\0", "is a gzip archive"),
    ],
)
def test_a_file_of_another_kind_is_told_what_it_is(tmp_path: Path, suffix: str, content: bytes, said: str) -> None:
    path = tmp_path / f"file{suffix}"
    path.write_bytes(content)
    for read in (read_tensors, from_file):
        with pytest.raises(BadInput, match=rf"file{suffix}' {said}.*; safetensors, .* is needed$"):
            read(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (bytes(100), "of no known kind .its first bytes are 00 00"),
        (b"i" + bytes(30), "of no known kind .its first bytes are 69 00"),
        (b"PK\x05\x06" + bytes(18), "it is a plain pickle, or broken; save a state_dict"),
        (b"PK\x03\x04" + bytes(30), "a broken archive, or one that was cut off"),
        (b"\x80\x02" + bytes(30), "it is a plain pickle, or broken"),
    ],
)
def test_a_broken_file_is_told_in_words(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "file.pt").write_bytes(content)
    with pytest.raises(BadInput, match=said):
        read_tensors(tmp_path / "file.pt")
