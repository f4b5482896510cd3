"""Networks and data for scenarios."""
