"""Public listeners: routing by server name and ALPN, the engine's HTTP API, the redirect listener."""
