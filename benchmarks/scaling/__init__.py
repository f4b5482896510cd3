"""Time and memory against image size, batch, depth, width and local steps (`python -m benchmarks.scaling`)."""
