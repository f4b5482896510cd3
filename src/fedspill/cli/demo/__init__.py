"""The demonstration, `fedspill demo`: four scenes of what updates give away of embedded photographs.

- `scenes`: what is set up, as plans.
- `words`: what came out, in sentences for people who never heard of federated learning.
- `run`: the scenes in turn, their page and their picture.
"""

from fedspill.cli.demo.run import run_demo
from fedspill.cli.demo.scenes import SETTINGS, Setting

__all__ = ["SETTINGS", "Setting", "run_demo"]
