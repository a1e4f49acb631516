"""How long kernels take: closed forms over per-rank counts."""
