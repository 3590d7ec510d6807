"""The edge: families, names, routing, certificates, life cycle."""
