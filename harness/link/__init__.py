"""The I/O below a peer: TCP connections and listeners, agent streams."""
