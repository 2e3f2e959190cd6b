"""Decisions: which offer to show, one at a time or many, and what was decided."""
