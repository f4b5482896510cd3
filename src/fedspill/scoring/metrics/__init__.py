"""Closeness of matched pairs, one number per pair; nothing is pooled over a batch.

The libraries behind a metric are imported when it is computed first: torchmetrics alone takes as long as PyTorch.

- `registry`: all metrics, by name.
- `images`: MSE, PSNR, SSIM, MS-SSIM.
- `lpips`: LPIPS.
- `sentences`: token accuracy, exact sentences, BLEU, ROUGE-L.
- `rows`: rows of tables, by columns and whole.
"""

from fedspill.scoring.metrics.images import MSE, MSSSIM, PSNR, SSIM, capped
from fedspill.scoring.metrics.lpips import LPIPS
from fedspill.scoring.metrics.registry import METRICS, by_names

__all__ = ["LPIPS", "METRICS", "MSE", "MSSSIM", "PSNR", "SSIM", "by_names", "capped"]
