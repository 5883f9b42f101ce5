"""Numbers about a whole split, from raw logits and labels: numpy and SciPy, no torch."""
