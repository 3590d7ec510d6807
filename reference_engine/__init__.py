"""A complete tunnel engine, usable on its own: `python -m reference_engine serve`."""
