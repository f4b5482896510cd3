"""The simulated world; sole holder of private data."""
