"""Which policy versions exist and where their artefacts lie."""
