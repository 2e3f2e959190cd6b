"""Policy versions: registered from artefact folders."""
