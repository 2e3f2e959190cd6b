"""All tables, their migrations, and the one writer of the ledger."""
