"""The reference engine with exactly one rule broken: one file per family."""
