"""One file, one attack, one CARD."""
