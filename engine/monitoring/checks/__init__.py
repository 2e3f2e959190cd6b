"""Checks by family: each takes a window of cells and says what it found."""
