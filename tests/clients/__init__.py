"""Clients, against a real server process."""
