"""Scripted clients and upstreams: wire on a link, each step a line in the transcript."""
