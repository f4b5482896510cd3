"""Sentences out of the row spaces of a transformer's gradients (DAGER).

Petrov, Dimitrov, Baader, Müller, Vechev, NeurIPS 2024, arXiv 2405.15586. What differs: every layer's calls are traced
instead of known by name, query, key and value are read together, the tolerance follows from the spectrum, sentences
of encoders are assembled by descent instead of by trying all, labels and copies are solved for, and the update that
was read must reproduce the observed one.

- `calls`: which weights multiply which rows in one pass, and which embeddings are looked up.
- `readers`: linear layers that get a row for every token, and what each row depends on.
- `spectrum`: the row space of a layer's gradient, its rank, and how far noise moves rows out of it.
- `tokens`: tokens whose rows lie in the first layer's space, position by position.
- `choosing`: the later layers at which sentences are checked.
- `growing`: sentences of a network that looks back only, token by token.
- `assembling`: sentences of a network that looks both ways.
- `selecting`: of more sentences than there were, those that explain the most.
- `labels`: labels and copies of sentences, out of the classification layer.
- `checking`: whether the update of what was read is the one that was observed.
"""
