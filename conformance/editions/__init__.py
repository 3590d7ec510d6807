"""What each edition promises, in both directions."""
