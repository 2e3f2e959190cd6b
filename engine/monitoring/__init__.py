"""Is the log true, and is the loop well: sums of the ledger, checks on them, alarms that ring once an episode."""
