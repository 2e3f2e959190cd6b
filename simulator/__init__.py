"""A subscription site as pure functions over arrays, and the gymnasium environments around it."""
