"""`python -m harness.cli`: the `edgecase` command where it is not on the path."""

from harness.cli.main import entry

entry()
