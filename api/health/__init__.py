"""Whether the process lives, whether it is ready, and its metrics."""
