"""The life of an experiment and what is counted in it."""
