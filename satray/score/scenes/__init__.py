"""Scenes: which there are, how they are opened, and their pixels on the network's lattice."""
