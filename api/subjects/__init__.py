"""Subjects: who is the same person as whom, and what may no longer be known of them."""
