"""The cases: a folder per area, a file per topic, a class per section."""
