"""What an engine accepts and refuses at creation."""
