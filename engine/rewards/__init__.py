"""Reward definitions, and the join of decisions with what came of them."""
