"""News that somebody should hear of without looking: written down once, sent by every channel until it is taken."""
