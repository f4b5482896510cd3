"""Metrics against independent references, at identity, and one example at a time."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio
from torch import Tensor, nn
from torchmetrics.functional.image import lpips as torchmetrics_lpips
from torchmetrics.functional.image import structural_similarity_index_measure

from fedspill.core.errors import BadInput
from fedspill.core.rng import rand, randn, stream
from fedspill.core.roles import Metric
from fedspill.scoring.distances import squared_errors
from fedspill.scoring.metrics import MSE, MSSSIM, PSNR, SSIM, by_names, capped
from fedspill.scoring.metrics.lpips import LPIPS, PerceptualFeatures, alexnet, default_weights
from fedspill.scoring.pairs import NotComputed
from fedspill.scoring.score import score_all

PIXEL_METRICS = [MSE(), PSNR(), SSIM()]
FLOAT64 = torch.zeros((), dtype=torch.float64)


def pairs(*shape: int, noise: float = 0.1) -> tuple[Tensor, Tensor]:
    """Smooth images (so that structure matters) and noisy copies."""
    rng = stream(0, "test metrics", *shape)
    coarse = rand((shape[0], shape[1], 4, 4), rng, FLOAT64)
    private = nn.functional.interpolate(coarse, shape[2:], mode="bicubic", align_corners=False).clamp(0, 1)
    return (private + noise * randn(tuple(shape), rng, FLOAT64)).clamp(0, 1), private


@pytest.fixture(scope="module")
def made_up_alexnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as torchvision would save AlexNet, with random weights."""
    rng, sizes = stream(0, "alexnet"), {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3)}
    sizes[10] = (256, 256, 3)
    state = {"classifier.1.weight": torch.zeros(2, 2)}
    for k, (out, into, size) in sizes.items():
        scale = (2 / (into * size**2)) ** 0.5
        state[f"features.{k}.weight"] = scale * randn((out, into, size, size), rng, torch.zeros(()))
        state[f"features.{k}.bias"] = torch.zeros(out)
    path = tmp_path_factory.mktemp("weights") / "alexnet.pt"
    torch.save(state, path)
    return path


@pytest.mark.parametrize("shape", [(3, 3, 32, 32), (2, 1, 28, 28), (2, 3, 40, 23), (1, 1, 11, 11)])
def test_psnr_and_ssim_equal_other_libraries(shape: tuple[int, ...]) -> None:
    rebuilt, private = pairs(*shape)
    psnr = [peak_signal_noise_ratio(b, a, data_range=1) for a, b in zip(rebuilt.numpy(), private.numpy(), strict=True)]
    assert PSNR()(rebuilt, private).tolist() == pytest.approx(psnr, abs=1e-9)
    maps = structural_similarity_index_measure(
        rebuilt, private, sigma=1.5, data_range=1.0, reduction="none", return_full_image=True
    )[1]
    interior = maps[..., 5:-5, 5:-5].flatten(1).mean(1)
    torch.testing.assert_close(SSIM()(rebuilt, private), interior, rtol=0, atol=1e-9)


def test_ms_ssim_equals_its_definition() -> None:
    """Five scales by hand with SciPy's filters; only the coarsest scale has the luminance term."""
    rebuilt, private = pairs(2, 1, 176, 180)
    got = MSSSIM()(rebuilt, private)
    for a, b, value in zip(rebuilt[:, 0].numpy(), private[:, 0].numpy(), got, strict=True):
        assert float(value) == pytest.approx(reference_ms_ssim(a, b), abs=1e-6)
    in_float32 = MSSSIM()(rebuilt.float(), private.float())
    torch.testing.assert_close(in_float32, got, rtol=0, atol=1e-5)


def reference_ms_ssim(a: np.ndarray, b: np.ndarray) -> float:
    from scipy.ndimage import gaussian_filter

    def blur(x: np.ndarray) -> np.ndarray:
        return gaussian_filter(x, 1.5, radius=5, mode="mirror")

    total, weights = 1.0, (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
    for scale, weight in enumerate(weights):
        ma, mb = blur(a), blur(b)
        va, vb, cov = blur(a * a) - ma**2, blur(b * b) - mb**2, blur(a * b) - ma * mb
        structure = (2 * cov + 0.03**2) / (va + vb + 0.03**2)
        luminance = (2 * ma * mb + 0.01**2) / (ma**2 + mb**2 + 0.01**2)
        last = scale == len(weights) - 1
        term = (structure * luminance).mean() if last else structure[5:-5, 5:-5].mean()
        total *= max(term, 0.0) ** weight
        a, b = (x[: x.shape[0] // 2 * 2, : x.shape[1] // 2 * 2] for x in (a, b))
        a, b = (x.reshape(x.shape[0] // 2, 2, x.shape[1] // 2, 2).mean((1, 3)) for x in (a, b))
    return total


@pytest.mark.parametrize(
    ("metric", "best", "size"),
    [(MSE(), 0, 32), (PSNR(), 100, 32), (SSIM(), 1, 32), (MSSSIM(), 1, 176)],
    ids=lambda v: getattr(v, "name", v),
)
@pytest.mark.parametrize("channels", [1, 3])
def test_identity_is_the_optimum(metric: Metric, best: float, size: int, channels: int) -> None:
    rebuilt, private = pairs(1 if size > 100 else 2, channels, size, size)
    same, other = metric(private, private), metric(rebuilt, private)
    assert same.dtype == torch.float64
    assert same.tolist() == pytest.approx([best] * len(private), abs=1e-12)
    assert bool(((same - other) > 0).all()) == metric.higher_is_closer
    assert bool((same != other).all())


@pytest.mark.parametrize("metric", PIXEL_METRICS, ids=lambda m: m.name)
def test_one_exact_image_speaks_only_for_itself(metric: Metric) -> None:
    rebuilt, private = pairs(4, 3, 32, 32)
    before = metric(rebuilt, private)
    rebuilt[2] = private[2]
    after = metric(rebuilt, private)
    keep = [0, 1, 3]
    assert torch.equal(before[keep], after[keep])
    assert after[2] == metric(private, private)[2]
    alone = torch.cat([metric(rebuilt[i : i + 1], private[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(after, alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("metric", PIXEL_METRICS, ids=lambda m: m.name)
def test_values_are_blind_to_the_order_of_reconstructions(metric: Metric) -> None:
    rebuilt, private = pairs(6, 3, 16, 16)
    order = torch.randperm(6, generator=stream(0, "order"))
    values = [score_all(r, private, [metric]).metrics[0].values for r in (rebuilt, rebuilt[order])]
    torch.testing.assert_close(*values, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(values[0], metric(rebuilt, private), rtol=1e-12, atol=1e-12)


def test_psnr_of_a_known_error_and_its_cap() -> None:
    private = torch.full((3, 1, 8, 8), 0.5)
    rebuilt = private + torch.tensor([0.1, 0.0, 1e-6]).view(3, 1, 1, 1)
    values = PSNR()(rebuilt, private)
    assert values.tolist() == pytest.approx([20, 100, 100], abs=1e-5)
    assert capped(values, 100.0) == 2


def test_images_are_clamped_first() -> None:
    rebuilt, private = pairs(2, 3, 16, 16)
    beyond = torch.where(rebuilt > 0.5, rebuilt + 3, rebuilt)
    for metric in PIXEL_METRICS:
        torch.testing.assert_close(metric(beyond, private), metric(beyond.clamp(0, 1), private))


@pytest.mark.parametrize("metric", [*PIXEL_METRICS, LPIPS()], ids=lambda m: m.name)
def test_a_metric_changes_nothing_and_accepts_float32(metric: Metric, made_up_alexnet: Path) -> None:
    if isinstance(metric, LPIPS):
        metric = LPIPS(made_up_alexnet)
    rebuilt, private = (x.float() for x in pairs(2, 3, 32, 32))
    before = rebuilt.clone(), private.clone()
    values = metric(rebuilt.requires_grad_(), private)
    assert values.dtype == torch.float64
    assert not values.requires_grad
    assert torch.equal(rebuilt, before[0])
    assert torch.equal(private, before[1])


@pytest.mark.parametrize("metric", PIXEL_METRICS, ids=lambda m: m.name)
def test_bad_shapes_are_named(metric: Metric) -> None:
    with pytest.raises(BadInput, match=r"\(2, 3, 16, 16\).*\(3, 3, 16, 16\)"):
        metric(torch.zeros(2, 3, 16, 16), torch.zeros(3, 3, 16, 16))
    with pytest.raises(BadInput, match=r"\(2, 4, 16, 16\)"):
        metric(torch.zeros(2, 4, 16, 16), torch.zeros(2, 4, 16, 16))
    with pytest.raises(BadInput, match=r"\(2, 16\)"):
        metric(torch.zeros(2, 16), torch.zeros(2, 16))


def test_too_small_for_a_metric_is_not_computed() -> None:
    with pytest.raises(NotComputed, match=r"at least 176 pixels.*175x200"):
        MSSSIM()(torch.zeros(1, 3, 175, 200), torch.zeros(1, 3, 175, 200))
    with pytest.raises(NotComputed, match=r"at least 11 pixels.*8x8"):
        SSIM()(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8))


def test_metrics_by_name() -> None:
    made = by_names(["psnr", "lpips"], lpips_weights=Path("somewhere"))
    assert made == (PSNR(), LPIPS(Path("somewhere")))
    assert all(isinstance(m, Metric) for m in made)
    with pytest.raises(BadInput, match=r"\['snr'\].*'psnr'"):
        by_names(["snr"])
    with pytest.raises(BadInput, match="twice"):
        by_names(["mse", "mse"])


def lpips_by_torchmetrics(network: PerceptualFeatures, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """torchmetrics' own module, given our stack in place of torchvision's."""
    stack = nn.Sequential(*network.features, nn.MaxPool2d(3, 2))
    monkeypatch.setattr(torchmetrics_lpips, "_get_tv_model_features", lambda net, pretrained: stack)
    real = torch.load
    monkeypatch.setattr(torch, "load", lambda *args, **kw: real(*args, **kw, weights_only=True))
    return torchmetrics_lpips._NoTrainLpips(net="alex")


@pytest.mark.parametrize("size", [(64, 64), (96, 70)])
def test_lpips_equals_torchmetrics(
    size: tuple[int, int], made_up_alexnet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rebuilt, private = (x.float() for x in pairs(3, 3, *size))
    reference = lpips_by_torchmetrics(alexnet(made_up_alexnet, rebuilt.device), monkeypatch)
    with torch.no_grad():
        expected = reference(rebuilt, private, normalize=True).flatten().double()
    torch.testing.assert_close(LPIPS(made_up_alexnet)(rebuilt, private), expected, rtol=1e-5, atol=1e-7)


def test_lpips_enlarges_small_images_and_repeats_grey(made_up_alexnet: Path) -> None:
    metric = LPIPS(made_up_alexnet)
    rebuilt, private = pairs(2, 1, 32, 48)
    by_hand = [
        nn.functional.interpolate(x.expand(-1, 3, -1, -1), (64, 96), mode="bilinear", align_corners=False)
        for x in (rebuilt, private)
    ]
    torch.testing.assert_close(metric(rebuilt, private), metric(*by_hand), rtol=1e-4, atol=1e-7)


def test_distances_of_perceptual_features_are_lpips(made_up_alexnet: Path) -> None:
    rebuilt, private = pairs(3, 3, 48, 48)
    network = alexnet(made_up_alexnet, private.device)
    squared = squared_errors(network(rebuilt), network(private))
    torch.testing.assert_close(squared.diagonal(), LPIPS(made_up_alexnet)(rebuilt, private), rtol=1e-4, atol=1e-8)
    swapped = LPIPS(made_up_alexnet)(rebuilt, private.roll(1, 0))
    torch.testing.assert_close(squared.roll(1, 1).diagonal(), swapped, rtol=1e-4, atol=1e-8)


def test_lpips_is_zero_at_identity_and_grows_with_noise(made_up_alexnet: Path) -> None:
    grows_with_noise(LPIPS(made_up_alexnet))


def test_lpips_with_the_real_weights() -> None:
    weights = default_weights()
    if weights is None:
        pytest.skip("AlexNet's weights are not there (FEDSPILL_DATA)")
    grows_with_noise(LPIPS(weights))


def grows_with_noise(metric: Metric) -> None:
    _, private = pairs(3, 3, 32, 32)
    noise = randn((3, 3, 32, 32), stream(0, "noise"), FLOAT64)
    values = [metric(private + sigma * noise, private) for sigma in (0, 0.05, 0.1, 0.2, 0.4)]
    assert values[0].tolist() == [0, 0, 0]
    assert all(bool((less < more).all()) for less, more in pairwise(values))


def test_lpips_without_usable_weights_is_not_computed(tmp_path: Path) -> None:
    images = torch.zeros(1, 3, 16, 16)
    broken, foreign = tmp_path / "broken.pt", tmp_path / "foreign.pt"
    broken.write_bytes(b"not a file of torch")
    torch.save({"features.0.weight": torch.zeros(1)}, foreign)
    for weights, why in [
        (None, "no AlexNet weights"),
        (tmp_path / "absent.pt", "absent.pt cannot be used"),
        (broken, "broken.pt cannot be used"),
        (foreign, "foreign.pt cannot be used"),
    ]:
        score = score_all(images, images, [LPIPS(weights)]).metrics[0]
        assert score.not_computed is not None
        assert why in score.not_computed
        assert score.values.isnan().all()
        assert score.listed() == []
        assert score.summary().mean is None


def test_weights_are_looked_for_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("FEDSPILL_DATA", str(tmp_path))
    assert default_weights() is None
    place = tmp_path / "weights" / "imagenet_alexnet_features.pt"
    place.parent.mkdir()
    place.touch()
    assert default_weights() == place
