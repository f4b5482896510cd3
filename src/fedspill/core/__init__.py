"""The vocabulary of an audit, and what a client computes; imports nothing else of the package.

- `types`: the nouns: batch, update, reconstruction.
- `inputs`: what an input is: images, sentences, table rows.
- `model`: a network and its loss as pure functions.
- `knowledge`: what the server holds when it attacks.
- `roles`: the verbs: attack, tampering, defence, check, metric, and the card of a component.
- `local_steps`: FedSGD and FedAvg, and one step of a client.
- `local_update`: what a client sends after all steps, and means over clients.
- `watch`: whoever runs an attack: progress, state, budget.
- `nested_watch`: many long steps under one watch.
- `memory`: how much memory work takes, and how much there is.
- `blocks`: work on many large rows, a few at a time.
- `rng`: named random streams.
- `tensor_files`: files written whole, tensors read without unpickling, digests.
- `values`: FIELD=VALUE pairs of the command line.
- `errors`: the errors that fedspill raises.
- `callable_package`: packages that list their components when called.
"""
