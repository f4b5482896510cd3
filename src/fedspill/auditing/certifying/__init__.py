"""What attacks claim to have read verbatim without the truth, and how far their word may be believed.

- `doubts`: where no certificate holds, by what the server knows of the defences.
- `claims`: which candidates of a reconstruction are claimed, and on what grounds.
- `measured`: how often such claims were wrong, by attack, and what follows for the next one.
- `counting`: the record of an attack's claims with that measurement.
"""
