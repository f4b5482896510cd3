"""One file, one check of an incoming model, one CARD."""
