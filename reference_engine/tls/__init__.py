"""TLS: endpoints, certificates, the protocol-native tunnels."""
