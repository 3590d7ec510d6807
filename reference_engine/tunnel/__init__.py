"""Tunnels: properties, validation, editions, host names, registry."""
