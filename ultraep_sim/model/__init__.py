"""Model shapes, hardware profiles, and the provenance of every number in them."""
