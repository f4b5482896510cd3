"""Whatever a client's filter chain is configured as, as one thing that is handed an update and returns one.

- `chain`: what is handed over, what a chain declares, and what it is asked.
- `loading`: which of these a name stands for.
- `own`: `package.module:factory`.
- `planned`: the defences of a plan.
- `nvflare`: the result filters of a scope of NVFlare's `privacy.json`.
- `flower`: a list of Flower's client mods.
- `opacus`: a client that trains with Opacus.
"""
