"""`board.pyz verify` and `predict`: the answers of a bundle's files, against those where the bundle was made."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autoformer.cli.board.bench import measured, result_of
from autoformer.cli.board.bundle import Bundle, chosen, damaged, opened, shipped_precision
from autoformer.cli.board.judging import Judge
from autoformer.cli.board.program import Answer, note
from autoformer.data.decoding import ENDINGS
from autoformer.errors import CheckpointError, DataError, ExportError, MeasurementError, MissingPackageError
from autoformer.export.engines.artefact import few_calls, profiles_of, trtexec_of
from autoformer.export.engines.builder import PRECISIONS
from autoformer.export.expected import DIFFERS, MATCHES, NOT_RUN
from autoformer.export.manifest import Artefact
from autoformer.export.parity import BATCHES
from autoformer.files import refuse_existing_file, write_json
from autoformer.profiling.measuring.verdict import INCONCLUSIVE, OVER_BUDGET, count_status, limit_status


def verify(arguments: argparse.Namespace) -> Answer:
    """Digests, logits and accuracy of every file that runs here, and the budget; ends with 1 where one is wrong."""
    if arguments.out is not None:
        refuse_existing_file(arguments.out)
    bundle = Bundle.open(arguments.bundle)
    answer: dict[str, Any] = {"files": damaged(bundle), "artefacts": {}, "budget": {}}
    good = not answer["files"]
    if good:
        judge = Judge(bundle)
        for folder, artefact in bundle.artefacts():
            answer["artefacts"][artefact.name], is_good = verified(judge, folder, artefact)
            good &= is_good
    answer["budget"] = budget(bundle, arguments)
    states = [entry["status"] for entry in answer["artefacts"].values()]
    kept = all(entry["status"] != OVER_BUDGET for entry in answer["budget"].values())
    if arguments.out is not None:
        write_json(result_of("verify", bundle, answer), arguments.out)
    return answer, good and MATCHES in states and kept


def verified(judge: Judge, folder: Path, artefact: Artefact) -> tuple[dict[str, Any], bool]:
    """What is found about one file, and whether that is as it should be.

    A file whose runtime is not installed here is none of this device's; one that its runtime refuses is not as it should be.
    Either is "not run", and the next file follows.
    """
    try:
        by_trtexec = artefact.is_engine and trtexec_of(artefact) is not None
        with opened(folder, artefact) as run:
            found = judge.file(artefact, run, few_calls(profiles_of(artefact)) if by_trtexec else BATCHES)
    except MissingPackageError as error:
        return {"status": NOT_RUN, "reason": str(error)}, True
    except (CheckpointError, DataError, MeasurementError) as error:
        return {"status": NOT_RUN, "reason": str(error)}, False
    except ExportError as error:  # logits that cannot be compared
        return {"status": DIFFERS, "reason": str(error)}, False
    return found.to_dict(), found.good


def budget(bundle: Bundle, arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Each limit with what is known here: within budget, over budget, or inconclusive."""
    found: dict[str, dict[str, Any]] = {}
    for name, limit in bundle.expected.budget.items():
        measure = name.partition("_")[2]
        if measure != "latency_ms":
            value = getattr(bundle.manifest, measure)
            status = OVER_BUDGET if value is None else count_status(name, limit, value)
            found[name] = {"limit": limit, "value": value, "status": status}
            continue
        means = bundle.expected.latency_means
        precision, backend = meant_by(means)
        precision = shipped_precision(bundle) or precision  # a limit is kept by what is shipped
        taken, missing = measured(bundle, arguments, only=precision)
        if not taken:
            why = "".join(f"; {what}: {reason}" for what, reason in missing.items())
            found[name] = {"limit": limit, "status": INCONCLUSIVE, "reason": f"no runtime here measures it{why}"}
            continue
        what, entry = min(taken.items(), key=lambda row: row[1].backend != backend)
        low, high = entry.stats.p50_low_ms, entry.stats.p50_high_ms
        found[name] = {
            "limit": limit, "limit means": means, "to ship": bundle.expected.ship, "measured": what,
            "median_ms": entry.stats.p50_ms, "low_ms": low, "high_ms": high, "verdict": str(entry.verdict),
            "status": limit_status(limit, entry.verdict, low, high),
        }  # fmt: skip
    return found


def meant_by(means: str | None) -> tuple[str, str | None]:
    """Precision and backend that a limit on latency is about, as `MeasurementConditions` writes them; else fp32."""
    words = (means or "").split(", ")
    return (words[2], words[3]) if len(words) > 4 and words[2] in PRECISIONS else ("fp32", None)


def image_files(words: Sequence[str]) -> list[str]:
    """The files that are named, and of folders those beneath whose endings are those of images.

    Raises `DataError` for a folder without any.
    """
    found: list[str] = []
    for word in words:
        if not Path(word).is_dir():
            found.append(word)
            continue
        below = sorted(
            path for path in Path(word).rglob("*") if path.name.lower().endswith((*ENDINGS, ".avif")) and path.is_file()
        )
        if not below:
            raise DataError(f"{word} holds no images; expected image files, or folders of them")
        found += map(str, below)
    return found


def predict(arguments: argparse.Namespace) -> Answer:
    """The most probable classes of image files."""
    import numpy as np

    bundle = Bundle.open(arguments.bundle)
    folder, artefact = chosen(bundle, arguments.precision)
    found: dict[str, Any] = {}
    with opened(folder, artefact) as run:
        for path in image_files(arguments.images):
            try:
                image = bundle.manifest.preprocessing.of_file(Path(path))
            except DataError as error:
                if path in arguments.images:  # named itself, not found in a folder
                    raise
                note(f"not asked about: {error}")
                continue
            logits = run(image[None])[0].astype(np.float64)
            if logits.shape != (len(bundle.manifest.classes),):
                raise CheckpointError(
                    f"{folder / 'manifest.json'} names {len(bundle.manifest.classes)} classes, {artefact.file} gives "
                    f"{list(logits.shape)}; copy the bundle again"
                )
            shares = np.exp(logits - logits.max())
            shares /= shares.sum()
            best = np.argsort(-shares)[: arguments.top]
            found[str(path)] = [{"name": bundle.manifest.classes[index], "probability": float(shares[index])} for index in best]
    if not found:
        raise DataError(f"{', '.join(arguments.images)}: no image can be read")
    return found, True
