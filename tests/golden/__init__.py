"""A made-up but realistic run record, and what reports make of it; `python -m tests.golden` writes the files anew."""
