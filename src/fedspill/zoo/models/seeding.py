"""Other people's code draws from the global generators; here it does so without a trace."""

from fedspill.core.rng import seeded_globals as borrowed_globals

__all__ = ["borrowed_globals"]
