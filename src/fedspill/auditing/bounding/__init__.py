"""What no attack beats on the updates of a plan, whatever was tried.

- `chain`: the plan's defences in the accountants' terms.
- `bounds`: epsilon, reconstruction, error and identifiability of the plan's updates.
- `recorded`: those of them that an audit holds against its policy, for the report.
"""
