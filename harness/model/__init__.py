"""Frozen data, no I/O: spec, feature, requirement, case, verdict, profile, event, run record."""
