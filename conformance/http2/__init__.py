"""Cases about HTTP/2, toward clients and toward upstreams (RFC 9113, RFC 7541)."""
