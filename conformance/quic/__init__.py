"""Raw QUIC tunnels: application protocols, streams, datagrams, ends, packets."""
