"""Views of a report: pure functions of an AuditReport.

- `folder`: every view, written beside report.json.
- `headline/`: the first page: a verdict line for each kind of server, the story in plain words, what to change.
- `html/`: the HTML report.
- `terminal`: the essentials for a terminal.
- `junit`: JUnit XML for a CI.
- `vetting/`: the same of a model that was vetted, and SARIF.
- `filtering/`: a filter chain that was tested, as a table and as JSON.
- `sweep/`: many audits compared.
- `advising/`: what leaks, and what was measured to stop it.
- `markdown`: the headline for a pull request.
- `index`: one page that leads to several reports.
- `drawing/`: pictures and plots.
- `facts`: trials by attack, and what their scores come to.
- `defences`: what the clients did to their updates, in words.
- `rounds`: the rounds of a federation as rows.
- `ranks`: which layers determine their input, as rows.
- `bins`: what a readout read, bin by bin.
- `texts`: sentences and rows, with what differs marked.
- `numbers`: how numbers are written for people.
"""
