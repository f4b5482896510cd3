"""Many audits from one plan: every combination of some of its keys, each once, whatever is killed in between.

- `grid`: the table `sweep` of a plan multiplied out.
- `trials`: one combination as a trial, known by a digest of its plan.
- `ledger`: the trials of a folder in SQLite: claimed, finished, given back.
- `leases`: who holds a claimed trial, and whether it still lives.
- `running`: one trial: an audit, and what a row keeps of it.
- `engines/`: where trials are run.
- `whole`: a sweep from its plan to its views.
- `driving`: trials handed to an engine, and what they gave written down, until none is left.
- `exporting`: the rows as CSV, Parquet and a page.
- `merging`: the folders of several machines as one.
"""
