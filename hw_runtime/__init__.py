"""The GPU twin of the simulator: recording hooks now, kernels and transfers to come."""
