"""The optimisation loop: restarts, budget, checkpoints.

- `problem`: what is minimised, and what was found.
- `step_rules`: Adam on signs, L-BFGS, schedules of the step size.
- `langevin`: Adam with noise, and where a search stands (Yin et al. 2021).
- `sequential`: one restart after the other.
- `batched`: all restarts at once.
- `stack`: variables of many runs in one.
- `replanning`: the length of a run planned anew while it runs.
- `settings`: the hyperparameters of a search that a plan sets.
"""
