"""Time and memory: the layer, the replay, the run."""
