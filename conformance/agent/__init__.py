"""The agent link: framing, control channel, data streams, private tunnels."""
