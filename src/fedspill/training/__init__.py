"""Training of what attacks need: robust feature extractors, heads that leak representations, decoders, autoencoders.

- `plan`: plans of trainings, checked key by key.
- `robust`: adversarial training of feature extractors (Maui, arXiv 2509.11451, equation 4).
- `leaking_head`: SpAB training of heads (the same, Algorithm 2).
- `spab_search`: its settings, searched with Optuna.
- `decoder`: decoders, from representations to images.
- `autoencoder`: an encoder with its decoder (Scale-MIA, arXiv 2311.05808).
- `generator`: image generators, for attacks whose prior is one.
- `shipped`: the small networks whose weights the package ships.
- `trainer`: epochs, augmentation, schedules.
- `adversary`: adversarial examples by projected gradient descent.
- `state`: who hears of a training, and the state from which a killed one goes on.
"""
