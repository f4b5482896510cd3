"""What benchmarks share.

- `clock`: time that other processes do not disturb.
- `records`: one JSON file per measurement.
- `extractors`: networks of the zoo with their weights.
- `places`: where results and documents lie.
- `cpu_torchvision`: a torchvision for the CPU build of torch.
"""
