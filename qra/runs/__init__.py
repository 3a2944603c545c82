"""A command that writes into a run directory: the only one that does, stopped by signals, watched over its ranks."""
