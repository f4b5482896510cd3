"""The smallest changes of a plan that stop what leaks, found by measuring again, each plan once.

- `whole`: from a plan to advice.
- `ladders`: which changes there are, and their strengths.
- `settings`: a change as text, and laid over a plan.
- `searching`: the weakest strength of a ladder that stops the leaks.
- `measuring`: one plan attacked, or trained, and kept: a trial of the folder's ledger.
- `judging`: whether a measured plan leaks, or was tested at all.
- `bounding`: what no attack beats under a change.
- `spending`: the budget over ladders.
"""
