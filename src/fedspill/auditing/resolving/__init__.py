"""A plan resolved, once, into what runs and judges its trials.

- `scenario`: model, data, clients, attacks and limits; nothing below it reads the plan again.
- `pools`: the private and the public examples.
- `fit`: whether model, data and clients fit together.
- `digests`: by what network, weights and loss are known again.
- `components`: attacks, defences and tampering, configured as the plan says.
- `rounds`: the federation, if the plan asks for rounds.
- `evaluation`: metrics and thresholds.
- `defaults`: what a plan leaves out and the kind of data decides.
"""
