"""Fit the time model to the measurement documents of ``python -m hw_runtime bench``."""
