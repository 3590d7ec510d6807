"""The `edgecase` command."""
