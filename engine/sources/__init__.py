"""Raw sources described in one TOML file each: how they are read, checked and cleaned."""
