"""Contracts that every component keeps, for authors of components outside fedspill.

    pytest --fedspill-contracts my_package.my_attack

- `contracts`: the tests: a card is complete, results are valid and repeatable, nothing that was given is changed, ...
- `components`: the component of a module, or all of the catalogue.
- `worlds`: the small models and batches that they run on.
- `plugin`: the option of pytest.
"""
