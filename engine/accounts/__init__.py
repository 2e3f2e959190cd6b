"""People who may use the console: accounts, roles, sessions."""
