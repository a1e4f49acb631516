"""Fit the time model to a production run's own log of step times."""
