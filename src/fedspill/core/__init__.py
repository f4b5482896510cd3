"""The vocabulary of an audit, and what a client computes; imports nothing else of the package.

- `words`: those of a threat model and of plans, without PyTorch.
- `types`: the nouns: batch, update, reconstruction.
- `inputs`: what an input is: images, sentences, table rows.
- `model`: a network and its loss as pure functions.
- `knowledge`: what the server holds when it attacks.
- `roles`: the verbs: attack, tampering, defence, check, metric, and the card of a component.
- `module/`: anyone's `nn.Module` as a pure function.
- `probing/`: what calling a model tells of it.
- `local_training/`: what a client does: steps, update, path.
- `watching/`: whoever runs an attack: progress, state, budget.
- `memory`: how much memory work takes, and how much there is.
- `blocks`: work on many large rows, a few at a time.
- `rng`: named random streams.
- `tensor_files`: files written whole, tensors read without unpickling, digests.
- `files/`: weights and updates as tools write them, put into a model.
- `settings`: groups of hyperparameters, which plans name in one flat list.
- `errors`: the errors that fedspill raises.
- `libraries/`: how code is found: libraries that an installation can spoil, packages that list their components.
"""
