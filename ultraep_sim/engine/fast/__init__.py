"""Whole iterations in closed form: orders, chains, a max-plus recurrence."""

from .run import run_fast

__all__ = ["run_fast"]
