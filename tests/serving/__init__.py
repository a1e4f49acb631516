"""Tests of ultraep_sim.serving."""
