"""JSON as every program reads it."""

from __future__ import annotations

import json
import math


def as_json_text(value: object, indent: int | None = 2) -> str:
    """Strict JSON text: numpy values as plain ones, paths as text, numbers JSON does not know (NaN, inf) as null."""

    def plain(item: object) -> object:
        if isinstance(item, dict):
            return {str(key): plain(entry) for key, entry in item.items()}
        if isinstance(item, list | tuple):
            return [plain(entry) for entry in item]
        if hasattr(item, "tolist"):  # a numpy array or number, or a tensor
            return plain(item.tolist())
        if isinstance(item, float) and not math.isfinite(item):
            return None
        return item if isinstance(item, str | int | float | bool | None) else str(item)

    return json.dumps(plain(value), indent=indent, ensure_ascii=False, allow_nan=False) + "\n"
