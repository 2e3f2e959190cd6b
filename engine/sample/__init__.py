"""A sample of a growth team's half year: made-up visitors, the real service, log and statistics, in a folder of its own."""
