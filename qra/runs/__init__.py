"""Commands that write to a run directory: exclusive access, stopping by signals, and monitoring of ranks."""
