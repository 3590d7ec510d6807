"""Engines and peers that others made: what is locked, how it is installed, how a peer is run."""
