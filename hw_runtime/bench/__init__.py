"""Measurement: kernels, transfers and the MoE block, in one versioned JSON document.

The document is the input of calibration; `schema.load` reads and checks it.
"""
