"""HTTP tunnels."""
