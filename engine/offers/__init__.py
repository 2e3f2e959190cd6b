"""Placements, their catalogues and what may be shown when."""
