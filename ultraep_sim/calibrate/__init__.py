"""Fit the time model to measurements, judge the fits, and say how certain they are."""
