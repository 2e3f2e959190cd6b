"""Channels to people, what they are told, and who looks after experiments while nobody does."""
