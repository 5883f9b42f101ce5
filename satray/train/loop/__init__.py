"""The training loop in plain torch, and what it is made of."""
