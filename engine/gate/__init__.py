"""The gate before visitors: what is asked of a candidate, what it answered, and how it moves on, or back."""
