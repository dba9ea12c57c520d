"""Who starts in a race: networks of the search, the parent's smaller sibling, and rivals, each exported and measured first."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from autoformer.cli.chain.starting import network_for
from autoformer.cost import Budget, count_flops, count_params
from autoformer.data.loading import load_parts, without_recorded
from autoformer.data.parts import DataParts
from autoformer.errors import AutoformerError, BudgetError, CheckpointError, ExportError, InterruptedRunError, StorageError
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

One = TypeVar("One")

SPARE = 2  # networks measured beyond those that start: some turn out to be slower than predicted
RESERVE = "keeps the limits, a spare"
SIZING_MARGIN = 0.05  # of the limit, for an image size that is chosen by a first look


@dataclass(kw_only=True)
class Networks:
    """Makes the network of an entrant as it is before the race, with the images as it takes them."""

    supernet: Path
    parts: DataParts
    seed: int = 0
    _supernet: Supernet | None = field(default=None, init=False)
    _sizes: dict[int, DataParts] = field(default_factory=dict, init=False)

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
        if image_size not in self._sizes:
            loaded = load_parts(self.parts.config.model_copy(update={"image_size": image_size}))
            self._sizes[image_size] = without_recorded(loaded, self.parts.record)
        network, parts, _ = network_for(words, self._sizes[image_size], self.seed)
        return network, parts


@dataclass(frozen=True, kw_only=True)
class Field:
    """Who starts, and who does not."""

    entrants: tuple[Entrant, ...]
    refused: tuple[Refused, ...]


@dataclass(frozen=True)
class _Asked:
    """A network that may start, before it is made and measured."""

    name: str
    kind: Kind
    network: str  # as in `Entrant`
    make: Callable[[], Entrant]  # raises an error of ours where it cannot start


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
        self.looked_at: dict[str, dict[int, tuple[Entrant, Ready | None]]] = {}  # rivals by name and image size
        found = list(itertools.islice(self._in_turn(), most + SPARE))
        if self.keeper is not None and found:
            found = self._timed(found, self.keeper)
            smaller = [self._shrunk(one) for one in found]
            if any(smaller):
                instead = [other or one for one, other in zip(found, smaller, strict=True)]
                found = self._timed(instead, self.keeper, f" again, {sum(map(bool, smaller))} of them at a smaller image size")
        kept = self._starting(found, most)
        for one in found:
            if one not in kept:
                reason = one.why_not(self.limits) or f"{RESERVE}: no more than {most} start"
                self._refuse(one.name, one.kind, one.network, reason, one)
        if not kept:
            example = next((f", e.g. {one.network}: {one.reason}" for one in self.refused), "")
            who = f"none of {len(self.refused)} networks" if self.refused else "no network of the search, as measured after it,"
            raise BudgetError(f"{who} keeps {self.limits}{example}; nothing was trained: widen the limits")
        return Field(entrants=tuple(kept), refused=tuple(self.refused))

    def _starting(self, found: Sequence[Entrant], most: int) -> list[Entrant]:
        """Those that start: of what keeps the limits one of every kind in turn, so that a spare stands in for one of its kind."""
        kinds = dict.fromkeys(one.kind for one in found)
        keeping = [one for one in found if one.why_not(self.limits) is None]
        groups = [iter([one for one in keeping if one.kind == kind]) for kind in kinds]
        return list(itertools.islice(taking_turns(groups), most))

    def _timed(self, found: Sequence[Entrant], keeper: Timekeeper, again: str = "") -> list[Entrant]:
        """The same with their times, all measured together."""
        self.say(f"measuring {len(found)} networks together{again}")
        architectures = [one.architecture for one in found if one.architecture is not None]
        times = keeper.together({one.name: self.ready[one.name] for one in found}, architectures)
        return [replace(one, timing=times[one.name]) for one in found]

    def _shrunk(self, one: Entrant) -> Entrant | None:
        """The same network at the next smaller image size, where its time breaks the limit and it was looked at there."""
        limit, sizes = self.limits.max_latency_ms, self.looked_at.get(one.name, {})
        smaller = [size for size in sizes if size < one.image_size]
        if limit is None or not smaller or one.why_not(replace(self.limits, max_latency_ms=None)) is not None:
            return None
        if one.why_not(self.limits) is None:
            return None
        entrant, ready = sizes[max(smaller)]
        if ready is not None:
            self.ready[one.name] = ready
        return self._noted(entrant)

    def _in_turn(self) -> Iterator[Entrant]:
        """Those that may start: one of every kind in turn, the most promising of a kind first; each made when it is its turn."""
        finalists, expensive, homogeneous = self._of_search()
        return taking_turns([self._made(kind) for kind in (finalists, self._rivals(), self._siblings(), homogeneous, expensive)])

    def _made(self, kind: Sequence[_Asked]) -> Iterator[Entrant]:
        """The networks of one kind, without those that cannot start: no weights, no such size, no export."""
        for asked in kind:
            try:
                made = asked.make()
            except (InterruptedRunError, StorageError):
                raise
            except AutoformerError as error:
                self._refuse(asked.name, asked.kind, asked.network, str(error))
                continue
            yield made

    def _refuse(self, name: str, kind: Kind, network: str, reason: str, entrant: Entrant | None = None) -> None:
        self.refused.append(Refused(name=name, kind=kind, network=network, reason=reason, entrant=entrant))

    # --- of the search -----------------------------------------------------------------------------------------------

    def _of_search(self) -> list[list[_Asked]]:
        """Finalists, a few in reserve among them, the most expensive network, and the homogeneous ones."""
        record, space = SearchRecord.load(self.search), self.networks.own.space  # weights that cannot be read end the race
        result = finally_chosen(record.result, self.search)
        without, limit = set(), self.limits.max_latency_ms
        if (self.search / FILE_NAME).exists() and limit is not None:
            timed = LatencyAnswer.load(self.search).networks
            without = {one.architecture for one in timed if one.timing.status(limit) == OVER_BUDGET}
        counted = replace(self.limits, max_latency_ms=None, min_latency_ms=None)
        without |= {one.architecture for one in result.candidates if not counted.allows(one.cost)}
        groups: dict[Kind, list[_Asked]] = {"finalist": [], "most expensive": [], "homogeneous": []}
        for kind, candidate in picked(result, space, self.config, without=without):
            number = "" if kind == "most expensive" else f"-{len(groups[kind]) + 1}"
            name = kind.replace(" ", "-") + number
            groups[kind].append(_Asked(name, kind, candidate.architecture.slug, partial(self._own, name, kind, candidate)))
        return list(groups.values())

    def _own(self, name: str, kind: Kind, candidate: Candidate) -> Entrant:
        space, architecture = self.networks.own.space, candidate.architecture
        if self.keeper is not None:
            self.ready[name] = self.keeper.of_space(space, architecture)
        return Entrant(
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

    # --- others ------------------------------------------------------------------------------------------------------

    def _siblings(self) -> list[_Asked]:
        parent = parent_of(self.networks.supernet)
        sibling = None if parent is None else smaller_sibling(parent)
        if sibling is None:
            return []
        words = f"{TIMM}{sibling.removeprefix(TIMM)}"
        return [_Asked("sibling", "sibling", words, partial(self._sized, "sibling", "sibling", words))]

    def _rivals(self) -> list[_Asked]:
        """The rivals that were named, in their order; by default those that are usual at the size of the search's networks."""
        size, wanted = self.networks.parts.preprocessing.image_size, self.config.rivals
        if wanted is None:
            wanted = default_rivals(size, parent_of(self.networks.supernet) is not None)
        found: dict[str, _Asked] = {}
        for words in wanted:
            plain = re.sub(r"[^A-Za-z0-9.]+", "-", words.removeprefix(TIMM).partition("@")[0]).strip("-.")[:60] or "rival"
            name = next(name for number in range(1, 1000) if (name := f"{plain}-{number}" if number > 1 else plain) not in found)
            found[name] = _Asked(name, "rival", words, partial(self._sized, name, "rival", words))
        return list(found.values())

    def _sized(self, name: str, kind: Kind, words: str) -> Entrant:
        """The network at the largest image size at which it keeps the limits. Raises `BudgetError` where there is none."""
        own = self.networks.parts.preprocessing.image_size
        if self.keeper is None and self.limits.max_latency_ms is not None:
            raise BudgetError(f"its latency cannot be measured: {self.unmeasured}")
        sizes, seen = sizes_for(own), dict[int, float]()
        made: dict[int, tuple[Entrant, Ready | None]] = {}

        def used(size: int) -> float:
            """The share of the limit that it uses most of, by a first look at it alone."""
            network, _ = self.networks.named(words, size)
            entrant, ready = self._entrant(name, kind, words, size, network)
            if self.keeper is not None and ready is not None and self.limits.max_latency_ms is not None:
                entrant = replace(entrant, predicted_ms=self.keeper.alone(ready))
            made[size] = entrant, ready
            shares = self.limits.use_of(entrant.cost())
            shares |= {name: (1 + SIZING_MARGIN) * share for name, share in shares.items() if name == "max_latency_ms"}
            return max(shares.values(), default=0.0)

        self.say(f"a first look at {words}")
        size: int | None = sizes[0]
        while size is not None and size not in seen:
            try:
                seen[size] = used(size)
            except (CheckpointError, ExportError):
                if size == sizes[0]:
                    raise
                seen[size] = math.inf  # it cannot take larger images
            if self.limits.to_dict():
                size = largest_within(1.0, seen, sizes)
        if size is None and (reason := made[sizes[0]][0].why_not(self.limits)) is not None:
            raise BudgetError(f"at {sizes[0]} px {reason}")
        size = size or sizes[0]
        self.looked_at[name] = made
        entrant, ready = made[size]
        if ready is not None:
            self.ready[name] = ready
        return self._noted(entrant)

    def _noted(self, entrant: Entrant) -> Entrant:
        """A network after its first look, which was no measurement; with a word where it takes the images at another size."""
        size, own = entrant.image_size, self.networks.parts.preprocessing.image_size
        most = " at most" if len(self.networks.own.space.image_sizes) > 1 else ""
        note = None if size == own else f"at {size} px, the search's networks take {own} px{most}"
        return replace(entrant, predicted_ms=None, note=note)

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


def taking_turns(kinds: Sequence[Iterator[One]]) -> Iterator[One]:
    """One of every kind in turn, until all are used up."""
    waiting = list(kinds)
    while waiting:
        for kind in list(waiting):
            try:
                one = next(kind)
            except StopIteration:
                waiting.remove(kind)
            else:
                yield one


def parent_of(supernet: Path) -> str | None:
    """The words of the pretrained network that a supernet started from; None where it started from nothing.

    A supernet that started from another one has the parent of that one; one that was trained elsewhere is its own.
    """
    record: dict[str, Any] = read_json(supernet / "supernet.json", "data")
    if "train" not in record:
        return str(record["data"].get("source"))
    return started_from(record["train"].get("start"))


def started_from(start: object) -> str | None:
    """The same of `train.start`."""
    if not isinstance(start, str):
        return None
    before = next((folder for folder in (Path(start), Path(start) / "supernet") if (folder / "supernet.json").exists()), None)
    return start if before is None else parent_of(before)
