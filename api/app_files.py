"""Where the command line finds the files of a service."""

from __future__ import annotations

from pathlib import Path

from api.app import keys_path
from api.auth import KeyFile
from api.settings import load_settings


def key_file(config: Path | None, home: Path | None) -> KeyFile:
    """File of key hashes of the service that the settings describe."""
    return KeyFile(keys_path(load_settings(config) if home is None else load_settings(config, home=home)))
