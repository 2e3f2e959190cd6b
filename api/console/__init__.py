"""The growth team's pages: what runs, what it has shown, what to do; a process of its own over the same store."""
