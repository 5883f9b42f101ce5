"""Numbers about a whole split, from raw logits and labels: numpy and scikit-learn, no torch."""
