"""Typed recipes: one pydantic model a job, YAML plus dotted overrides, help that lists every key."""
