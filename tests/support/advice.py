"""A small plan that leaks, and its advice."""

from typing import Any

TINY: dict[str, Any] = {
    "audit": {"attacks": ["linear_layer"], "metrics": ["psnr"], "budget": 60.0},
    "model": {"name": "mlp", "hidden": [8], "dtype": "float64"},
    "data": {"name": "photos", "size": 4, "indices": "0"},
    "utility": {"rounds": 1, "clients": 1, "held_out": 20, "server_lr": 0.1, "data": {"name": "photos", "size": 4}},
}
