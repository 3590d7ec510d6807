"""HTTP tunnels: one neutral exchange, codecs, rules, upgrades."""
