"""Retraining: from closed windows to a judged candidate, step by step, each of which is kept."""
