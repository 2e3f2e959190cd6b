"""What a policy would have earned on a log, what an experiment showed, and how far either can be believed."""
