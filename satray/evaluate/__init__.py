"""How good predictions are, and whether they can be made again."""
