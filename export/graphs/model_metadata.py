"""What a model file says about itself: architecture, digest of its weights, preprocessing, classes, precision.

ONNX files carry string properties; ours begin with `autoformer.` and hold JSON where the value is more than a word. Runs on
boards: standard library only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from autoformer.architecture import Architecture
from autoformer.data.preprocessing import Preprocessing
from autoformer.files import believing
from autoformer.records import fields_to_json, from_json

PREFIX = "autoformer."
WORDS = ("weights_digest", "precision")  # stored as they are, all others as JSON


@dataclass(frozen=True)
class ModelMetadata:
    """The properties of one file. Whatever a foreign file does not say is None; `other` holds what is not ours."""

    architecture: Architecture | None = None
    weights_digest: str | None = None
    preprocessing: Preprocessing | None = None
    classes: tuple[str, ...] | None = None
    precision: str | None = None
    other: dict[str, str] = field(default_factory=dict)

    def to_properties(self) -> dict[str, str]:
        """The string properties; `from_properties` reads them back."""
        values = {name: value for name, value in fields_to_json(self).items() if name != "other" and value is not None}
        ours = {
            PREFIX + name: value if name in WORDS else json.dumps(value, sort_keys=True, ensure_ascii=False)
            for name, value in values.items()
        }
        return {**self.other, **ours}

    @classmethod
    def from_properties(cls, properties: Mapping[str, str], source: object) -> ModelMetadata:
        """Reads the properties of the file `source`. Raises `CheckpointError` naming the one that makes no sense."""
        values: dict[str, Any] = {"other": dict(properties)}
        for name in ("architecture", "preprocessing", "classes", *WORDS):
            if (key := PREFIX + name) in properties:
                with believing(source, "export it again", fault=f"carries {key} that cannot be read"):
                    text = values["other"].pop(key)
                    values[name] = text if name in WORDS else json.loads(text)
                    from_json(cls, {name: values[name]})
        return from_json(cls, values)
