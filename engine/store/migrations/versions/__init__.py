"""One file a revision, forward and back."""
