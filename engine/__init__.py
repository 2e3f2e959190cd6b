"""Store, decision pipeline, event sequences, models and training: everything that has state, short of HTTP."""
