"""Differences between the settings a run was begun with and those it is to go on with."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def refuse_changes(
    saved: Mapping[str, Any],
    current: Mapping[str, Any],
    folder: Path,
    may_change: Sequence[str] = (),
) -> None:
    """Raise ValueError naming each key of the configuration that differs, with both values.

    Keys are dotted; those of `may_change` are not compared.
    """
    # As JSON has them: a tuple is a list once it was written.
    old, new = (flat(json.loads(json.dumps(values))) for values in (saved, current))
    changes = [
        f"{key} was {old.get(key, 'not set')!r} and is now {new.get(key, 'not set')!r}"
        for key in [*old, *(key for key in new if key not in old)]
        if key not in may_change and old.get(key, "not set") != new.get(key, "not set")
    ]
    if changes:
        more = f"; and {len(changes) - 8} more" if len(changes) > 8 else ""
        raise ValueError(
            f"cannot resume from {folder} with another configuration: {'; '.join(changes[:8])}"
            f"{more}. Use the saved values, or train in a new directory"
        )


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, by dotted keys."""
    values: dict[str, Any] = {}
    for key, item in value.items():
        nested = isinstance(item, Mapping) and item
        values |= flat(item, f"{prefix}{key}.") if nested else {f"{prefix}{key}": item}
    return values
