"""Soak: a random walk over every pair of HTTP versions on one engine, and what must hold all the way.

`plan` is one exchange as data and what may become of it, `chance` makes plans by a seed, `carry` plays one, `lanes`
does what a connection goes through, `walk` does many at once, step by step, and `census` counts what the engine holds.
"""
