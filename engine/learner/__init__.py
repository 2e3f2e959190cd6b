"""Learning from the ledger as windows close, and publishing snapshots that servers swap in."""
