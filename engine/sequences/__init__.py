"""Spark jobs from raw sources to decision points with event sequences."""
