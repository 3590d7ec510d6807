"""What a project and a tunnel demand of clients at the edge."""
