"""QUIC: the connections of the edge and of agents, and raw QUIC tunnels."""
