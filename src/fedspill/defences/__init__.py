"""One file, one defence, one CARD."""
