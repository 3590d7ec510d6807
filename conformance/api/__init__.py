"""The HTTP API of the engine: the list of what there is, live events, who may read them."""
