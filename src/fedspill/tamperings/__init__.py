"""One file, one malicious server, one CARD; its readout, if it has one, stands in the same file."""
