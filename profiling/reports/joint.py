"""What several runs, exports, bundles and profiles show together: the content of one report, as values for programs.

A folder may be a finished run, an export, a bundle, or any folder that holds JSON files of `profile run` and `profile layers`; a
file may be one of these. Beside every latency stands an accuracy, or the word `unverified`. A score counts for a
measurement when the file that was measured has the name and the precision of one that was scored in the same folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoformer import __version__
from autoformer.errors import CheckpointError
from autoformer.export.manifest import FILE_NAME as MANIFEST
from autoformer.export.manifest import Manifest
from autoformer.files import read_json
from autoformer.metric import wilson
from autoformer.profiling.insides.layers import FORMAT as LAYERS_FORMAT
from autoformer.profiling.insides.layers import LayerProfile
from autoformer.profiling.measuring.measure import Measurement, device_name
from autoformer.profiling.profiles.batch_sweep import FORMAT as BATCHES_FORMAT
from autoformer.profiling.profiles.batch_sweep import load_profiles
from autoformer.profiling.profiles.latency import FORMAT as PROFILE_FORMAT
from autoformer.profiling.profiles.latency import Profile
from autoformer.profiling.reports.content import content
from autoformer.profiling.reports.run_folder import Run

FORMAT = "autoformer/joint-report/1"
UNVERIFIED = "unverified"


@dataclass(frozen=True, kw_only=True)
class Known:
    """A score of one file, and of what."""

    value: float
    low: float
    high: float
    words: str  # "accuracy on 539 images of the test part"


@dataclass(frozen=True, kw_only=True)
class Timed:
    """One measurement with where it came from."""

    source: str
    measurement: Measurement
    profile: Profile
    score: Known | None = None


@dataclass
class Joined:
    """Everything that was found, in the order of the paths."""

    sources: list[dict[str, Any]] = field(default_factory=list)
    timed: list[Timed] = field(default_factory=list)
    layers: list[tuple[str, LayerProfile]] = field(default_factory=list)
    predictions: list[dict[str, Any]] = field(default_factory=list)
    not_measured: list[dict[str, str]] = field(default_factory=list)

    @property
    def profiles(self) -> list[tuple[str, Profile]]:
        """Each profile once."""
        found: dict[int, tuple[str, Profile]] = {}
        for one in self.timed:
            found.setdefault(id(one.profile), (one.source, one.profile))
        return list(found.values())


def join_sources(paths: Sequence[Path]) -> Joined:
    """Reads all `paths`. Raises `CheckpointError` naming the first that is not a source of a report, or is damaged."""
    joined = Joined()
    names = [path.resolve().name for path in paths]
    for path, name in zip(paths, names, strict=True):
        source = name if names.count(name) == 1 else str(path)
        if not path.exists():
            raise CheckpointError(f"{path} does not exist; expected a run, an export, a bundle, or files of `profile run`")
        if path.is_file():
            if not _add_file(joined, source, path, {}):
                raise CheckpointError(f"{path} is not a file of `profile run` or `profile layers`; expected one, or a folder")
        elif (path / "run.json").is_file():
            _add_run(joined, source, path)
        else:
            _add_folder(joined, source, path)
    return joined


def _add_run(joined: Joined, source: str, folder: Path) -> None:
    run = Run.load(folder)
    values = content(run)
    chosen = values["chosen"]
    joined.sources.append(
        {
            "source": source, "kind": "run", "network": chosen["slug"], "params": chosen["params"], "flops": chosen["flops"],
            "words": f"{chosen['words']}, for {run.source}", "digest": chosen["weights_digest"],
        }
    )  # fmt: skip
    scores = {}
    for artefact in run.manifest.artefacts:
        name = f"{artefact.format} {artefact.precision}"
        if artefact.file is not None and name in run.predictions:
            found, images = run.score(name), run.parts["test"].images
            words = f"{run.metric} on {images} images of the test part"
            scores[artefact.file] = Known(value=found.value, low=found.low, high=found.high, words=words)
    _add_profile(joined, source, run.profile, scores)
    if run.layers is not None:
        joined.layers.append((source, run.layers))
    if values["latency_table"] is not None and values["latency_table"]["prediction"]["predicted_ms"] is not None:
        prediction = values["latency_table"]["prediction"]
        joined.predictions.append({"source": source, "network": chosen["slug"], **prediction})
    if run.answer is not None:
        for network in (network for taken in run.answer.rounds for network in taken.networks):
            joined.predictions.append(
                {
                    "source": source, "network": network.architecture.slug, "predicted_ms": network.predicted_ms,
                    "measured_ms": network.timing.measured_ms, "error": network.error, "reason": "",
                }
            )  # fmt: skip
    joined.not_measured += [{"source": source, **missing} for missing in values["not_measured"]]


def _add_folder(joined: Joined, source: str, folder: Path) -> None:
    scores: dict[str, Known] = {}
    manifest = Manifest.load(folder) if (folder / MANIFEST).is_file() else None
    if manifest is not None:
        scores = dict(_exported_scores(manifest))
        kind = "bundle" if (folder / "bundle.json").is_file() else "export"
        named = "network" if manifest.architecture is None else manifest.architecture.slug
        joined.sources.append(
            {
                "source": source, "kind": kind, "network": named, "params": manifest.params, "flops": manifest.flops,
                "words": ", ".join(f"{a.format} {a.precision} {a.status}" for a in manifest.artefacts),
                "digest": manifest.weights_digest,
            }
        )  # fmt: skip
        for artefact in manifest.artefacts:
            if artefact.file is None:
                what = f"{artefact.format} {artefact.precision}"
                reason = f"{artefact.status}: {artefact.reason}"
                joined.not_measured.append({"source": source, "what": what, "reason": reason})
    found = [_add_file(joined, source, path, scores) for path in sorted(folder.glob("*.json"))]
    if manifest is None and not any(found):
        raise CheckpointError(
            f"{folder} is not a run, export or bundle and holds no file of `profile run` or `profile layers`; expected one"
        )
    if not any(found):
        reason = f"{folder.name} holds no file of `profile run --out`"
        joined.not_measured.append({"source": source, "what": "latency", "reason": reason})


def _exported_scores(manifest: Manifest) -> Iterator[tuple[str, Known]]:
    """The scores of exported files on the images that they were compared with their network on."""
    for artefact in manifest.artefacts:
        if artefact.file is not None and artefact.correct is not None and artefact.parity is not None:
            value, images = artefact.correct / artefact.parity.images, artefact.parity.images
            low, high = wilson(value, images)
            words = f"top1 on {images} images that the export was compared on"
            yield artefact.file, Known(value=value, low=low, high=high, words=words)


def _add_file(joined: Joined, source: str, path: Path, scores: Mapping[str, Known]) -> bool:
    """Adds one file; False where it is of another kind."""
    try:
        form = read_json(path).get("format")
    except CheckpointError:
        form = None  # trtexec's lists, and whatever else lies there
    if form in (PROFILE_FORMAT, BATCHES_FORMAT):
        for profile in load_profiles(path):
            _add_profile(joined, source, profile, scores)
        return True
    if form == LAYERS_FORMAT or path.name.endswith(".profile.json"):
        joined.layers.append((source, LayerProfile.load(path)))
        return True
    return False


def _add_profile(joined: Joined, source: str, profile: Profile, scores: Mapping[str, Known]) -> None:
    for taken in profile.measurements:
        score = scores.get(Path(taken.name.split(" (")[0]).name)
        joined.timed.append(Timed(source=source, measurement=taken, profile=profile, score=score))
    joined.not_measured += [
        {"source": source, "what": f"{missing.name} on {missing.backend}", "reason": missing.reason}
        for missing in profile.not_measured
    ]


def joint_content(joined: Joined) -> dict[str, Any]:
    """Everything as JSON."""
    return {
        "format": FORMAT,
        "version": __version__,
        "sources": joined.sources,
        "measurements": [_measurement(one) for one in joined.timed],
        "predictions": joined.predictions,
        "layers": [{"source": source, **layers.to_dict()} for source, layers in joined.layers],
        "cold_starts": [
            {"source": source, **start.to_dict()} for source, profile in joined.profiles for start in profile.cold_starts
        ],
        "energy": [{"source": source, **one.to_dict()} for source, profile in joined.profiles for one in profile.energy],
        "devices": list(_devices(joined)),
        "not_measured": _once(joined.not_measured),
    }


def _measurement(one: Timed) -> dict[str, Any]:
    taken = one.measurement
    return {
        "source": one.source,
        "name": taken.name,
        "backend": taken.backend,
        "precision": taken.precision,
        "batch": taken.batch,
        "threads": taken.threads,
        "settings": dict(taken.settings),
        "device": device_name(taken.device, taken.backend, taken.threads),
        "created": one.profile.created,
        "metrics": {name: stats.to_dict() for name, stats in taken.metrics.items()},
        "images_per_s": taken.images_per_s,
        "ratio_to_reference": one.profile.ratio(taken),
        "verdict": taken.verdict.level,
        "reasons": list(taken.verdict.reasons),
        "clocks_locked": None if taken.conditions is None else taken.conditions.clocks_locked,
        "score": UNVERIFIED if one.score is None else vars(one.score),
    }


def _devices(joined: Joined) -> Iterator[dict[str, Any]]:
    """Each machine once, as the first measurement on it found it."""
    seen = set()
    for one in joined.timed:
        facts = one.measurement.device
        key = (facts.short_name, facts.gpu_name, tuple(sorted(facts.versions.items())))
        if key not in seen:
            seen.add(key)
            yield {"source": one.source, **facts.to_dict()}


def _once(entries: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    return [dict(entry) for entry in dict.fromkeys(tuple(sorted(entry.items())) for entry in entries)]
