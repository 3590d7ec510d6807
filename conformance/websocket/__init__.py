"""WebSocket on HTTP tunnels."""
