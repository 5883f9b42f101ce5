"""Training on Ray: what the driver hands to workers, and what they keep and give back."""
