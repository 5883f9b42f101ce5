"""Runs: identity, run.json, resuming, and the frame that every job stands in."""
