"""Alembic migrations of the store; run through ``engine.store.migrate``."""
