"""Work that takes minutes: in a process of its own, gone on with after a crash, told while it runs."""
