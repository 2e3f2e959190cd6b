"""Experiments: created, started, widened, reweighted, stopped."""
