"""The vocabulary of an audit; imports nothing else of the package."""
