"""Content addresses: SHA-256 over canonical JSON."""

import hashlib
import json
from typing import Any


def canonical_json(value: Any) -> str:
    """Serialises `value` with sorted keys and no spaces; refuses NaN."""
    return json.dumps(value, sort_keys=True, separators=(',', ':'), allow_nan=False)


def digest(value: Any) -> str:
    """Gives the SHA-256, as 64 hex digits, of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()
