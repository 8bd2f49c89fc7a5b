"""Click-through-rate recommenders: one backbone a file, found by name."""
