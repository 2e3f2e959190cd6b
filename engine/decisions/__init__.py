"""The pipeline of one decision: eligible offers, variant, state, policy, draw, durable log, answer."""
