"""HTTP/3 at the edge and behind it, frame by frame: streams, frames, messages, QPACK (RFC 9114, RFC 9204)."""
