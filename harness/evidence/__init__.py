"""What a verdict rests on: the transcript, its barriers, the engine's log."""
