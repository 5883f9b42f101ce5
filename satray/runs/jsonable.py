"""JSON as satray writes it: UTF-8, and null where a figure is not defined."""

import json
import math
from typing import Any


def finite(value: Any) -> Any:
    """Return plain values with NaN and infinities, which JSON does not have, as None."""
    if isinstance(value, dict):
        return {str(name): finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_json(value: Any) -> bytes:
    """Return a value as indented JSON."""
    return json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False).encode()
