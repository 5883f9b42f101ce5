"""Typed recipes: a pydantic model a job, YAML, dotted overrides, help that lists every key."""
