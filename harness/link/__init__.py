"""The I/O below a peer: TCP connections and listeners, UDP flows, agent streams."""
