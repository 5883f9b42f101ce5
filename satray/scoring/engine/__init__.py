"""A bundle's features as fast as this machine gives them, equal to eager torch's within 1e-4."""
