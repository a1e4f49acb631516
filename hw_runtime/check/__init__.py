"""The proof: what must hold for plans, weights, gradients and reroute, on any fabric."""
