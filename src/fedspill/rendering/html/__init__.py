"""The HTML report.

- `page`: a report's page and the index of many.
- `view`: what the page shows, computed from the report.
- `cards`: one pair of private and rebuilt example after the other.
- `plan_text`: the plan in words.
"""
