"""The agent link: framing, control channel, proxied and dialled streams."""
