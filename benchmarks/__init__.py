"""Measurements against baselines in the same run; `nextoffer benchmark NAME`."""
