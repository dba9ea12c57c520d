"""`SearchRecord`: what a search leaves for those after it, as `search.json`.

A search writes one, and so does an answer from stored evaluations (`answer.py`), which names its source. Reports, `describe`,
`extract` and measurements read it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from autoformer import __version__
from autoformer.conditions import MeasurementConditions
from autoformer.cost import Budget
from autoformer.files import believing, read_document, write_json
from autoformer.records import fields_to_json, from_json, stored_as
from autoformer.search.config import SearchConfig
from autoformer.search.result import SearchResult, Step
from autoformer.space import SearchSpace

FORMAT, FILE_NAME = "autoformer/search/3", "search.json"
OF_ONE_KIND = ("images", "history", "space_table", "from")  # keys that only a search or only an answer writes


@dataclass(frozen=True, kw_only=True)
class Source:
    """The search whose stored evaluations gave an answer."""

    search: str  # digest of its file
    stored: int  # candidates there
    inside: int  # of these inside the budget
    images: int  # that the best is known from


@dataclass(frozen=True, kw_only=True)
class SearchRecord:
    """What was asked and what was found."""

    result: SearchResult
    space: SearchSpace
    budget: Budget  # that was searched with: the stated one, its latency less the margin
    measurement_conditions: MeasurementConditions | None = field(metadata=stored_as("latency_qualification"))  # of a latency
    config: SearchConfig
    latency_margin: float = 0.0  # by which the limit on latency was tightened, relative
    seed: int | None = None
    weights_digest: str | None = None
    images_digest: str | None = None
    images: Mapping[str, Any] = field(default_factory=dict)  # of a search: counts, the rungs, the precision
    history: Mapping[str, tuple[Step, ...]] = field(default_factory=dict)  # of a search, by method
    space_table: Mapping[str, Any] = field(default_factory=dict)  # of a search: a `SpaceTable`; of an answer: its latencies
    source: Source | None = field(default=None, metadata=stored_as("from"))  # of an answer
    version: str = __version__

    def __post_init__(self) -> None:
        ends = self.latency_ends
        if not 0 <= self.latency_margin < math.inf or not all(0 < end < math.inf for end in ends):
            raise ValueError(f"latencies {ends}, margin {self.latency_margin}")
        for candidate in self.result.candidates:
            self.space.check(candidate.architecture)

    @property
    def latency_ends(self) -> tuple[float, ...]:
        """Milliseconds of the smallest and the largest network of the space; empty where they were not recorded."""
        spread = self.space_table.get("costs", {}).get("latency_ms")
        return () if spread is None else (float(spread["smallest"]), float(spread["largest"]))

    @property
    def stated(self) -> Budget:
        """The limits as they were before the margin of a latency table."""
        limit = self.budget.max_latency_ms
        return replace(self.budget, max_latency_ms=limit and limit * (1 + self.latency_margin))

    def to_dict(self) -> dict[str, Any]:
        """The content of `search.json`."""
        values = fields_to_json(self)
        return {"format": FORMAT, **{key: value for key, value in values.items() if value or key not in OF_ONE_KIND}}

    @classmethod
    def load(cls, folder: Path) -> SearchRecord:
        """The finished search in `folder`. Raises `CheckpointError` when it holds none, or one that is damaged."""
        path = folder / FILE_NAME
        values = read_document(path, FORMAT, expected="a finished search")
        with believing(path, "it was edited or damaged; search again", fault="is not a search result"):
            record = from_json(cls, values, "search", beside=("format",))
        return replace(record, result=replace(record.result, history=record.history.get(record.config.method, ())))

    def save(self, folder: Path) -> None:
        """Writes `search.json`, whole or not at all."""
        write_json(self.to_dict(), folder / FILE_NAME)
