"""Run record in, report out: HTML, JUnit, Allure, JSON Schema, terminal summary.

Every report is a pure function of the run record (`harness.model.record`). `standing` says once how a verdict stands to
the baseline; `text` makes what came from an engine safe to show; `markup` escapes by construction. `html`, `junit`,
`allure` and `summary` build on these and on nothing of each other.
"""
