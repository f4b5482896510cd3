"""Plans, runs, reports."""
