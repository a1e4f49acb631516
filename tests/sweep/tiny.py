"""A scenario so small that a sweep of it takes seconds."""

from __future__ import annotations

TINY = """
name: tiny
model: {preset: qwen3-30b, layers: 2, num_experts: 16, top_k: 2}
rack: h100-nvl8
ep: {ranks: 4, slots_per_rank: 1}
workload:
  synthetic: {imbalance: 1.5, layers: 1, steps: 2}
  tokens_per_rank: 256
  sequence_length: 256
policies: [none, ultraep, ideal]
"""
