"""Code of other people, imported with care: an installation may be spoilt, and a user's module may do anything.

Beside it, how our own packages are asked what they hold.

- `vision`: torchvision, and torchmetrics, which imports it; what does not need their broken part still works.
- `named`: what `package.module:name` stands for.
- `callable_package`: packages that list their components when called.
"""
