"""Propensity models, one module a framework, and what they share: datasets, metrics, calibration, encoders."""
