"""Tests of the harness, the reference engine, the reports and the tools."""
