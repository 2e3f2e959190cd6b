"""Placements: their catalogue, rules, order and policy, and how they are doing."""
