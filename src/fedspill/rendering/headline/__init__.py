"""The first page of a report, for whoever has to decide: the same words in every view.

- `words`: what stands for each verdict.
- `roles`: one verdict line for each kind of server.
- `story`: what was tried, and what came out of it, in plain words.
- `certified`: what attacks read verbatim by their own certificates, and how far these may be believed.
- `guarantees`: what was measured, certified, declared and bounded, apart.
- `advice`: what to change first.
"""
