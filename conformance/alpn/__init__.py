"""Application protocols negotiated at the edge and carried upstream."""
