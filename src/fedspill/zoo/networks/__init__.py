"""The zoo's own networks, one small file per family."""
