"""Tests of ultraep_sim.trace."""
