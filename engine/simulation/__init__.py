"""Experiments in the simulator: spread over processes, and reported."""
