"""bundle.json: what the files of a bundle gave where it was made, so that a device can compare.

Runs on boards: standard library only, Python 3.10.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoformer.architecture import Architecture
from autoformer.files import believing, read_document, write_json
from autoformer.records import fields_to_json, from_json

FORMAT = "autoformer/bundle/1"
FILE_NAME = "bundle.json"
LIMITS = tuple(f"{kind}_{measure}" for kind in ("max", "min") for measure in ("params", "flops", "latency_ms"))

RESULT_FORMAT = "autoformer/board/1"  # of what the bundle's program finds on a device
MATCHES, DIFFERS = "matches", "does not match"  # what a file's logits on a device are, as result files say it
NOT_RUN = "not run"  # it gave none there
EARLIER = {"as promised": MATCHES, "differs": DIFFERS}  # as earlier versions said it


@dataclass(frozen=True, kw_only=True)
class ExpectedResults:
    """The results that a bundle's files should give again, and the budget that they should keep.

    Raises `ValueError` for a limit that is none of `LIMITS`, and labels that are not numbers of classes.
    """

    name: str = "model"  # in the model card and the Triton repository
    budget: Mapping[str, float] = field(default_factory=dict)  # limits by name, as `Budget.to_dict` has them
    latency_means: str | None = None  # what a limit on latency means
    accuracy: Mapping[str, Any] = field(default_factory=dict)  # scores by "onnx fp32", ..., and on which part
    latency: Mapping[str, Any] = field(default_factory=dict)  # measured where it was made, by file
    made: Mapping[str, Any] = field(default_factory=dict)  # versions, recipe, seed
    costs: Mapping[str, Any] = field(default_factory=dict)  # "params", "flops"
    architecture: Architecture | None = None
    labels: tuple[int, ...]  # the class of each check image
    ship: str | None = None  # the file that the run says to ship; None where it names none
    ship_why: str = ""  # in a sentence
    cautions: tuple[str, ...] = ()  # what whoever ships it should know, in sentences
    # by ONNX file, the file in the bundle with the logits that it gave itself of the check images; empty in earlier bundles
    logits: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)  # SHA-256 of every other file of the bundle, by its path there

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.budget) - set(LIMITS)):
            raise ValueError(f"a limit {unknown[0]!r} in the budget, known are {', '.join(LIMITS)}")
        if not self.labels or not all(0 <= label < 2**31 for label in self.labels):
            raise ValueError("labels that are not the numbers of classes, one per check image")

    def save(self, folder: Path) -> None:
        """Writes `bundle.json` into `folder`."""
        write_json({"format": FORMAT, **fields_to_json(self)}, folder / FILE_NAME)

    @classmethod
    def load(cls, folder: Path) -> ExpectedResults:
        """Reads the bundle.json of `folder`. Raises `CheckpointError` when there is none, or it was edited or damaged."""
        values = read_document(folder / FILE_NAME, FORMAT, expected="a bundle")
        with believing(folder / FILE_NAME, "copy the bundle again", fault="was edited or damaged"):
            return from_json(cls, values, beside=("format",))
