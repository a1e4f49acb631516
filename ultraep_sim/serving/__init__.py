"""Prefill serving: requests in, time to first token out."""
