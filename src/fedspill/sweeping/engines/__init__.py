"""Where trials are run.

- `engine`: what all of them do.
- `here`: one after the other in this process.
- `local`: in processes of this machine.
- `on_ray`: as tasks of a Ray cluster.
"""
