"""Libraries that an installation can spoil, imported so that what does not need their broken part still works.

- `vision`: torchvision, and torchmetrics, which imports it.
"""
