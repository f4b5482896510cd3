"""What attacks claim to have read verbatim without the truth, and how far their word may be believed.

- `claims`: which candidates of a reconstruction are claimed, and on what grounds.
"""
