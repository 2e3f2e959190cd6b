"""Named settings of the simulated site."""
