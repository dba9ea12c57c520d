"""What a model file says about itself: architecture, digest of its weights, preprocessing, classes, precision.

ONNX files carry string properties; ours begin with `autoformer.` and hold JSON where the value is more than a word. Runs on
boards: standard library only.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from autoformer.architecture import Architecture
from autoformer.data.preprocessing import Preprocessing
from autoformer.errors import ArchitectureError, CheckpointError, short

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "autoformer."


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
        values: dict[str, Any] = {
            "architecture": self.architecture and self.architecture.to_dict(),
            "weights_digest": self.weights_digest,
            "preprocessing": self.preprocessing and self.preprocessing.to_dict(),
            "classes": self.classes and list(self.classes),
            "precision": self.precision,
        }
        ours = {
            PREFIX + name: value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
            for name, value in values.items()
            if value is not None
        }
        return {**self.other, **ours}

    @classmethod
    def from_properties(cls, properties: Mapping[str, str], source: object) -> ModelMetadata:
        """Reads the properties of the file `source`. Raises `CheckpointError` naming the one that makes no sense."""
        ours = {key[len(PREFIX) :]: value for key, value in properties.items() if key.startswith(PREFIX)}
        known = {"architecture", "weights_digest", "preprocessing", "classes", "precision"}
        name = ""
        try:
            architecture = preprocessing = classes = None
            if (name := "architecture") in ours:
                architecture = Architecture.from_dict(json.loads(ours[name]))
            if (name := "preprocessing") in ours:
                preprocessing = Preprocessing.from_dict(json.loads(ours[name]))
            if (name := "classes") in ours:
                words = json.loads(ours[name])
                if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
                    raise TypeError("expected a list of names")
                classes = tuple(words)
        except (ArchitectureError, CheckpointError, RecursionError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{source} carries {PREFIX}{name} that cannot be read ({short(error)}); export it again"
            ) from error
        return cls(
            architecture=architecture,
            weights_digest=ours.get("weights_digest"),
            preprocessing=preprocessing,
            classes=classes,
            precision=ours.get("precision"),
            other={key: value for key, value in properties.items() if key not in {PREFIX + word for word in known}},
        )
