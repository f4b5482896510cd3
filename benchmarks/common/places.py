"""Where benchmarks keep what they recorded, and the documents that are made of it."""

from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
RESULTS = Path(__file__).parents[1] / "results"
DOCS = REPOSITORY / "docs"
