"""Loads the plugin of the harness, and nothing else."""

pytest_plugins = ["harness.plugin"]
