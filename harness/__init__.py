"""Everything that runs a case against some engine."""
