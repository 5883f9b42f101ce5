"""Transfer learning on satellite tiles as distributed batch jobs on Ray."""

__version__ = "0.1.0"
