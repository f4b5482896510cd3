"""The benchmark of verdicts: what its files hold, and what its table says of them."""

from benchmarks.verdicts.packing import packed, unpacked
from benchmarks.verdicts.table import RIVALS, agreement, by_quality


def pair(kind: str, psnr: float, hits: tuple[int, int, int], recognised: int) -> dict:
    near = dict(zip(("pixel", "ssim", "lpips"), map(bool, hits), strict=True))
    told = dict.fromkeys(RIVALS, bool(recognised))
    return {
        "kind": kind,
        "psnr": psnr,
        "identified": near,
        "identified again": near,
        "recognised": told,
        "beyond": [1.0],
    }


def test_what_is_packed_is_unpacked_under_flat_names() -> None:
    (again,) = unpacked(packed({"cifar10, 0": [pair("blur", 21.0, (1, 1, 0), 1)]}))["cifar10, 0"]
    assert (again["kind"], again["psnr"], again["beyond/0"]) == ("blur", 21.0, 1.0)
    assert [again[f"identified/{k}"] for k in ("pixel", "ssim", "lpips")] == [1, 1, 0]
    assert again["recognised/own class"] == 1


def test_two_of_three_identify_and_the_table_counts_both_errors() -> None:
    given = [
        pair("blur", 21.0, (1, 1, 0), 1), pair("blur", 21.5, (1, 0, 0), 1),
        pair("blur", 9.0, (0, 1, 1), 0), pair("guess: TV only", 9.0, (0, 0, 0), 0),
    ]  # fmt: skip
    (pairs,) = unpacked(packed({"x, 0": given})).values()
    row = agreement(pairs)[2]
    assert row.endswith("| 50.0% | 25.0% | 25.0% | 0 of 1 | 0 of 0 |")
    bands = by_quality(pairs)
    assert "| 20 to 22 | 2 | 50.0% | 100.0% | 50.0% | 0.0% |" in bands
    assert "| 8 to 10 | 1 | 100.0% | 0.0% | 100.0% | 100.0% |" in bands, "guesses are left out"
