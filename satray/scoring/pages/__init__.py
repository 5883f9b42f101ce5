"""The pictures and the page of an evaluation."""
