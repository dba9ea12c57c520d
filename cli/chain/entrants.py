"""Who starts in a race: networks of the search, the parent's smaller sibling, and rivals, each exported and measured first."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from autoformer.cli.chain.starting import network_and_parts
from autoformer.cost import Budget, count_flops, count_params, show
from autoformer.data.loading import without_recorded
from autoformer.data.parts import DataParts
from autoformer.errors import AutoformerError, BudgetError, InterruptedRunError, StorageError
from autoformer.files import TIMM, read_json
from autoformer.networks.folders import load_supernet
from autoformer.networks.subnet import Subnet
from autoformer.networks.supernet import Supernet
from autoformer.pretrained.classifier import Classifier, is_from_scratch
from autoformer.pretrained.rivals import default_rivals, largest_within, sizes_for, smaller_sibling
from autoformer.profiling.measuring.verdict import OVER_BUDGET
from autoformer.profiling.profiles.artefact_costs import flops_of
from autoformer.profiling.race.config import RaceConfig
from autoformer.profiling.race.entrant import Entrant, Kind
from autoformer.profiling.race.picking import picked
from autoformer.profiling.race.record import Refused
from autoformer.profiling.race.timing import Ready, Timekeeper
from autoformer.profiling.tables.limit import FILE_NAME, LatencyAnswer, finally_chosen
from autoformer.profiling.tables.table import LatencyTable
from autoformer.search.candidate import Candidate
from autoformer.search.record import SearchRecord

SPARE = 2  # networks measured beyond those that start: some turn out to be slower than predicted
SIZING_MARGIN = 0.03  # of the limit, for an image size that is chosen by a first look


@dataclass(kw_only=True)
class Networks:
    """Makes the network of an entrant as it is before the race, with the images as it takes them."""

    supernet: Path
    parts: DataParts
    seed: int = 0
    _supernet: Supernet | None = field(default=None, init=False)
    _sizes: dict[tuple[str, int], DataParts] = field(default_factory=dict, init=False)

    def of(self, entrant: Entrant) -> tuple[Subnet | Classifier, DataParts]:
        """Raises `CheckpointError` when its weights cannot be had."""
        if entrant.architecture is not None:
            return Subnet.from_supernet(self.own, entrant.architecture), self.parts
        return self.named(entrant.network, entrant.image_size)

    @property
    def own(self) -> Supernet:
        """The trained supernet."""
        if self._supernet is None:
            self._supernet = load_supernet(self.supernet)
        return self._supernet

    def named(self, words: str, image_size: int) -> tuple[Subnet | Classifier, DataParts]:
        """A network by timm's name, for the run's images at this size."""
        given = {name: getattr(self.parts.config, name) for name in self.parts.config.model_fields_set}
        network, parts, _ = network_and_parts(words, {**given, "source": self.parts.config.source}, image_size, self.seed)
        key = words if isinstance(network, Classifier) else "", image_size
        if key not in self._sizes:
            self._sizes[key] = without_recorded(parts, self.parts.record)
        return network, self._sizes[key]


@dataclass(frozen=True, kw_only=True)
class Field:
    """Who starts, and who does not."""

    entrants: tuple[Entrant, ...]
    refused: tuple[Refused, ...]


@dataclass(kw_only=True)
class Selection:
    """Finds and measures those that may start."""

    networks: Networks
    search: Path
    limits: Budget  # as stated
    config: RaceConfig
    table: LatencyTable | None
    keeper: Timekeeper | None  # None: nothing can be measured here, for this reason
    unmeasured: str | None = None
    say: Callable[[str], None] = lambda line: None

    def field(self, most: int) -> Field:
        """At most so many entrants that keep the limits, as measured. Raises `BudgetError` when none does."""
        self.ready: dict[str, Ready] = {}
        self.refused: list[Refused] = []
        found = list(itertools.islice(self._in_turn(), most + SPARE))
        if self.keeper is not None and found:
            architectures = [one.architecture for one in found if one.architecture is not None]
            times = self.keeper.together({one.name: self.ready[one.name] for one in found}, architectures)
            found = [replace(one, timing=times[one.name]) for one in found]
        kept: list[Entrant] = []
        for one in found:
            if (reason := one.why_not(self.limits)) is None and len(kept) < most:
                kept.append(one)
            else:
                self._refuse(one.name, one.kind, one.network, reason or f"measured in reserve; {most} start", one)
        if not kept:
            first = self.refused[0]
            raise BudgetError(
                f"none of {len(self.refused)} networks keeps {self.limits}, e.g. {first.network}: {first.reason}; nothing was "
                "trained: widen the limits"
            )
        return Field(entrants=tuple(kept), refused=tuple(self.refused))

    def _in_turn(self) -> Iterator[Entrant]:
        """Those that may start: one of every kind in turn, the most promising of a kind first; each made when it is its turn."""
        finalists, expensive, homogeneous = self._of_search()
        waiting = [
            itertools.chain.from_iterable(make() for make in kind)
            for kind in (finalists, self._rivals(), self._siblings(), homogeneous, expensive)
        ]
        while waiting:
            for kind in list(waiting):
                if (one := next(kind, None)) is not None:
                    yield one
                else:
                    waiting.remove(kind)

    def _refuse(self, name: str, kind: Kind, network: str, reason: str, entrant: Entrant | None = None) -> None:
        self.refused.append(Refused(name=name, kind=kind, network=network, reason=reason, entrant=entrant))

    # --- of the search -----------------------------------------------------------------------------------------------

    def _of_search(self) -> list[list[Callable[[], list[Entrant]]]]:
        """Finalists, a few in reserve among them, the most expensive network, and the homogeneous ones."""
        record = SearchRecord.load(self.search)
        result = finally_chosen(record.result, self.search)
        slow = set()
        if (self.search / FILE_NAME).exists() and self.limits.max_latency_ms is not None:
            answer = LatencyAnswer.load(self.search)
            slow = {one.architecture for one in answer.networks if one.timing.status(answer.limit_ms) == OVER_BUDGET}
        groups: dict[Kind, list[Callable[[], list[Entrant]]]] = {"finalist": [], "most expensive": [], "homogeneous": []}
        for kind, candidate in picked(result, record.space, self.config, without=slow):
            number = "" if kind == "most expensive" else f"-{len(groups[kind]) + 1}"
            groups[kind].append(partial(self._own, kind.replace(" ", "-") + number, kind, candidate))
        return list(groups.values())

    def _own(self, name: str, kind: Kind, candidate: Candidate) -> list[Entrant]:
        space, architecture = self.networks.own.space, candidate.architecture
        if self.keeper is not None:
            self.ready[name] = self.keeper.of_space(space, architecture)
        return [
            Entrant(
                name=name,
                kind=kind,
                network=architecture.slug,
                image_size=space.image_size_of(architecture),
                fresh=False,
                params=count_params(architecture, space),
                flops=count_flops(architecture, space),
                architecture=architecture,
                inherited=candidate.score,
                predicted_ms=None if self.table is None else self.table.predict(architecture),
            )
        ]

    # --- others ------------------------------------------------------------------------------------------------------

    def _siblings(self) -> list[Callable[[], list[Entrant]]]:
        parent = parent_of(self.networks.supernet)
        sibling = None if parent is None else smaller_sibling(parent)
        if sibling is None:
            return []
        return [partial(self._sized, "sibling", "sibling", f"{TIMM}{sibling.removeprefix(TIMM)}")]

    def _rivals(self) -> list[Callable[[], list[Entrant]]]:
        """The rivals that were named, in their order; by default those that are usual at this image size."""
        size, wanted = self.networks.parts.preprocessing.image_size, self.config.rivals
        if wanted is None:
            wanted = default_rivals(size, parent_of(self.networks.supernet) is not None)
        found: dict[str, Callable[[], list[Entrant]]] = {}
        for words in wanted:
            plain = re.sub(r"[^A-Za-z0-9.]+", "-", words.removeprefix(TIMM).partition("@")[0]).strip("-.")[:60] or "rival"
            name = next(name for number in range(1, 1000) if (name := f"{plain}-{number}" if number > 1 else plain) not in found)
            found[name] = partial(self._sized, name, "rival", words)
        return list(found.values())

    def _sized(self, name: str, kind: Kind, words: str) -> list[Entrant]:
        """The network at the largest image size at which it keeps the limits; empty, and refused, where there is none."""
        own = self.networks.parts.preprocessing.image_size
        if self.keeper is None and self.limits.max_latency_ms is not None:
            self._refuse(name, kind, words, f"its latency cannot be measured: {self.unmeasured}")
            return []
        try:
            return [self._measured(name, kind, words, own)]
        except (InterruptedRunError, StorageError):
            raise
        except AutoformerError as error:  # no weights, no such size, no export: the race goes on without it
            self._refuse(name, kind, words, str(error))
            return []

    def _measured(self, name: str, kind: Kind, words: str, own: int) -> Entrant:
        sizes, limit, seen = sizes_for(own), self.limits.max_latency_ms, dict[int, float]()
        made: dict[int, tuple[Entrant, Ready | None]] = {}

        def look(size: int) -> float:
            network, _ = self.networks.named(words, size)
            made[size] = self._entrant(name, kind, words, size, network)
            ready = made[size][1]
            return 0.0 if self.keeper is None or ready is None else self.keeper.alone(ready)

        self.say(f"a first look at {words}")
        size: int | None = sizes[0]
        while size is not None and size not in seen:
            seen[size] = look(size)
            if limit is not None:
                size = largest_within(limit * (1 - SIZING_MARGIN), seen, sizes)
        if size is None:
            least = min(seen)
            raise BudgetError(
                f"{show('latency_ms', seen[least])} at {least} px against the limit of {show('latency_ms', limit or 0)}"
            )
        entrant, ready = made[size]
        if ready is not None:
            self.ready[name] = ready
        return entrant if size == own else replace(entrant, note=f"at {size} px, the images have {own}")

    def _entrant(
        self, name: str, kind: Kind, words: str, size: int, network: Subnet | Classifier
    ) -> tuple[Entrant, Ready | None]:
        module: nn.Module = network if isinstance(network, Subnet) else network.network
        shape = (self.networks.parts.preprocessing.in_chans, size, size)
        ready = None if self.keeper is None else self.keeper.of_network(f"{name}-{size}", module, shape)
        params, flops = sum(weight.numel() for weight in module.parameters()), flops_of(module, shape)
        entrant = Entrant(
            name=name, kind=kind, network=words, image_size=size, fresh=is_from_scratch(words), params=params, flops=flops,
        )  # fmt: skip
        return entrant, ready


def parent_of(supernet: Path) -> str | None:
    """The words of the pretrained network that a supernet started from; None where it started from nothing."""
    record: dict[str, Any] = read_json(supernet / "supernet.json")
    start = (record.get("train") or {}).get("start")
    return start if isinstance(start, str) else None
