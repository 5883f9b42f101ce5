"""The parts of `python -m bench score`."""
