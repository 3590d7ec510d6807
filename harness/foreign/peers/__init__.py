"""Programs around the QUIC libraries of others. They run in the environment of their library, import nothing of ours;
docs/foreign.md has what they say to each other."""
