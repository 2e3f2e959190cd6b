"""``concatenate`` under the name it was first known by; new code takes it from ``policies.stacking``."""

from policies.stacking import concatenate

__all__ = ["concatenate"]
