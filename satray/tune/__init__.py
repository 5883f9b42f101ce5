"""Sweeps: the space of configurations, features shared by trials, Ray Tune over both, results."""
