"""Training: the loop in plain torch, what it is made of, and its launch on Ray Train."""
