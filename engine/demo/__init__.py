"""The demo's story: raw events to a live A/B result, every step the product's own."""
