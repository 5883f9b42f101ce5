"""The demo: an invented coast to learn from, and the whole line run on it."""
