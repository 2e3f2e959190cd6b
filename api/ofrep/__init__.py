"""The OpenFeature door: remote evaluation of experiments and of the next best offer, and what a GrowthBook client reads."""
