"""Views of a vetted model: pure functions of a Vetting.

- `words`: the headline, the threat model, and what was not looked at.
- `table`: for a terminal.
- `summary`: Markdown, for a pull request or the summary of a CI job.
- `sarif`: SARIF 2.1.0, for code scanning.
- `cases`: JUnit XML, a test case for every check.
"""
