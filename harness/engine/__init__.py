"""Drivers: start, publish and stop an engine, over the agent protocol or through an adapter."""
