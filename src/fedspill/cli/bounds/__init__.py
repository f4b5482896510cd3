"""`fedspill bounds`: what no attack beats on the updates of a plan.

- `command`: its arguments.
- `words`: what it says.
"""
