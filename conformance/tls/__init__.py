"""TLS tunnels: terminated, terminated with upstream TLS, passthrough."""
