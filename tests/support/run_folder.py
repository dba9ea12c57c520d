"""A finished run, made by hand from the real classes in a moment: what `cli/chain/chain.py` leaves behind, without its work."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

import numpy as np

from autoformer.architecture import Architecture
from autoformer.conditions import MeasurementConditions
from autoformer.cost import Budget
from autoformer.data.preprocessing import Preprocessing
from autoformer.export.manifest import Artefact, Manifest
from autoformer.export.parity import compare
from autoformer.files import write_json
from autoformer.metric import Metric, score
from autoformer.profiling.measuring.device import DeviceFacts
from autoformer.profiling.measuring.measure import MeasureConfig, Measurement, Warmup
from autoformer.profiling.measuring.order_statistics import LatencyStats
from autoformer.profiling.measuring.verdict import Verdict
from autoformer.profiling.profiles.latency import NotMeasured, Profile
from autoformer.profiling.tables.costs import TableCosts
from autoformer.profiling.tables.table import LatencyTable
from autoformer.search.candidate import Candidate
from autoformer.search.result import conclude
from autoformer.space import SearchSpace

IMAGES, TEST_IMAGES = 270, 540
SPACE = SearchSpace.preset("micro", image_size=8, in_chans=1, num_classes=10)
PREPROCESSING = Preprocessing(8, 1, (0.3,), (0.4,))
DEVICE = DeviceFacts(
    cpu="Test CPU",
    cores=2,
    governor=None,
    load_average=0.2,
    isa=("avx2",),
    memory_mib=8192,
    operating_system="Linux-test",
    python="3.11.0",
    versions={"torch": "2.11.0", "onnxruntime-gpu": "1.31.1"},
)
QUALIFICATION = MeasurementConditions(
    statistic="p50", batch=1, precision="fp32", backend="onnxruntime-cpu", device="Test CPU, 2 cores, 1 thread"
)


def make_run(
    folder: Path,
    *,
    classes: tuple[str, ...] = tuple("0123456789"),
    source: str = "digits",
    limit_ms: float | None = 1.0,
    samples_ms: tuple[float, ...] | None = None,
    verdict: Verdict = Verdict("VALID"),
    int8_wrong: int | None = 3,
    int8_name: str = "model.int8.onnx",
    skip_reason: str = "TensorRT is not installed",
    metric: Metric = "top1",
    search_record: dict[str, Any] | None = None,
) -> Path:
    """Fills `folder` with a run. Its networks have 500, 530 and 531 of 540 test images right; int8 names another class than
    fp32 on `int8_wrong` images (None: it was rejected). fp32 runs take `samples_ms`, by default 1000 of 0.80 to 0.82 ms.

    Of 12 candidates number n has 230 + 3 n of 270 search images right up to 7, the others 150; number 5 is the most
    expensive in the budget, 11 homogeneous. `search_record` is added to `search.json`.
    """
    rng = random.Random(0)
    table = _table()
    costs = TableCosts(SPACE, table) if limit_ms is not None else None
    candidates, search_labels = [], np.arange(IMAGES) % len(classes)
    for number in range(12):
        architecture = SPACE.sample(rng) if number < 11 else SPACE.uniform(64, 4, 3, 1.5)
        right = np.arange(IMAGES) >= 40 - 3 * number if number < 8 else np.arange(IMAGES) >= 120
        cost = TableCosts(SPACE, table)(architecture)
        if costs is None:
            cost = type(cost)(params=cost.params, flops=cost.flops)
        predicted = np.where(right, search_labels, (search_labels + 1) % len(classes))
        candidates.append(
            Candidate(
                number=number, generation=number // 6, architecture=architecture, cost=cost, predictions=predicted,
                score=score(predicted, search_labels, metric),
            )
        )  # fmt: skip
    result = conclude(candidates, search_labels, "cheapest", most_expensive=candidates[5].architecture)
    chosen = result.chosen

    parts = {"train": 987, "search": IMAGES, "test": TEST_IMAGES}
    data = {
        "source": source,
        "config": {"source": source},
        "layout": "search and test taken out, stratified by class",
        "classes": list(classes),
        "parts": {name: {"images": count, "digest": hashlib.sha256(name.encode()).hexdigest()} for name, count in parts.items()},
        "preprocessing": PREPROCESSING.to_dict(),
    }
    recipe = {
        "seed": 3,
        "metric": metric,
        "data": {"source": source},
        "profile": {"table": None, "batch": 1},
        "train": {"epochs": 2},
    }
    run = {"format": "autoformer/run/1", "version": "0.1.0", "recipe": recipe, "data": data, "space": SPACE.to_dict()}
    write_json({**run, "device": DEVICE.to_dict()}, folder / "run.json")
    limits = Budget(max_params=200_000, max_latency_ms=limit_ms)
    sought = Budget(max_params=200_000, max_latency_ms=None if limit_ms is None else limit_ms / (1 + table.margin))
    stated = {"max_params": "80%", "min_params": None, "max_latency": None if limit_ms is None else f"{limit_ms}ms"}
    write_json({"stated": stated, "limits": limits.to_dict(), "searched_with": sought.to_dict()}, folder / "budget.json")
    if limit_ms is not None:
        table.save(folder / "latency_table.json")
    anchors = ("smallest", "middle", "largest")
    supernet = {"format": "autoformer/supernet/1", "history": _history(anchors, metric), "weights_digest": "a" * 64}
    write_json(supernet, folder / "supernet" / "supernet.json")
    write_json({"format": "autoformer/subnet/1", "history": _history(("network",), metric)}, folder / "finetuned" / "subnet.json")
    search = {
        "format": "autoformer/search/3",
        "latency_qualification": None if limit_ms is None else QUALIFICATION.__dict__,
        "space": SPACE.to_dict(),
        "budget": sought.to_dict(),
        "config": {"method": "evolution", "choose": "cheapest"},
        "result": result.to_dict(),
        "history": {
            "evolution": [{"images": IMAGES * (n + 1), "best": candidates[min(n, 7)].score.value} for n in (*range(8), 11)]
        },
        **(search_record or {}),
    }
    write_json(search, folder / "search" / "search.json")
    _manifest(folder / "export", chosen.architecture, chosen.cost.params, int8_wrong is not None, int8_name, skip_reason)

    samples = samples_ms or tuple(0.80 + 0.00002 * (index * 7919 % 1000) for index in range(1000))
    measurements = [measurement("model.fp32.onnx (onnxruntime-cpu)", "fp32", samples, verdict)]
    if int8_wrong is not None:
        faster = tuple(sample / 2 for sample in samples)
        measurements.append(measurement(f"{int8_name} (onnxruntime-cpu)", "int8", faster, Verdict("VALID")))
    missing = [NotMeasured("model.fp32.onnx", "onnxruntime-cuda", "no NVIDIA GPU was found")]
    missing.append(NotMeasured("export/tensorrt fp32", "tensorrt", f"skipped: {skip_reason}"))
    reference = measurement("reference network", "fp32", tuple(0.1 + 0.0001 * (i % 10) for i in range(700)), Verdict("VALID"))
    profile = Profile(tuple(measurements), reference, tuple(missing), MeasureConfig(), "2026-01-02T03:04:05+00:00")
    profile.save(folder / "latency.json")

    labels = np.arange(TEST_IMAGES) % len(classes)
    predictions = {name: labels.copy() for name in ("inherited", "finetuned", "onnx fp32", "onnx int8")}
    for name, wrong in (("inherited", 40), ("finetuned", 10), ("onnx fp32", 9)):
        predictions[name][:wrong] = (labels[:wrong] + 1) % len(classes)
    predictions["onnx int8"] = predictions["onnx fp32"].copy()
    if int8_wrong is None:
        del predictions["onnx int8"]
    else:
        predictions["onnx int8"][-int8_wrong:] = (labels[-int8_wrong:] + 1) % len(classes)
    digest = data["parts"]["test"]["digest"]  # type: ignore[index]
    test = {"format": "autoformer/test/1", "split": digest, "labels": labels.tolist()}
    write_json({**test, "guesses": {name: found.tolist() for name, found in predictions.items()}}, folder / "test.json")
    readings = [
        {"reader": name, "split": digest, "images": TEST_IMAGES, "time": "2026-01-02T03:04:05+0000"}
        for name in sorted(predictions)
    ]
    write_json({"format": "autoformer/test-ledger/1", "readings": readings}, folder / "test_ledger.json")
    seconds = {"train": 75.0, "search": 4.2, "extract": 0.1, "finetune": 20.0, "export": 9.0, "profile": 5.0, "test": 0.4}
    write_json({"format": "autoformer/steps/1", "seconds": seconds}, folder / "steps.json")
    return folder


def measurement(name: str, precision: str, samples_ms: tuple[float, ...], verdict: Verdict) -> Measurement:
    """A measurement of these wall times, by one thread of the test CPU."""
    stats = LatencyStats.from_samples(samples_ms)
    return Measurement(
        name=name,
        backend="onnxruntime-cpu",
        precision=precision,
        batch=1,
        threads=1,
        settings={},
        device=DEVICE,
        warmup=Warmup(30, 0.3, True),
        stats=stats,
        cpu_stats=None,
        device_stats=None,
        verdict=verdict,
        samples_ms=samples_ms,
        cpu_samples_ms=(),
        device_samples_ms=(),
        round_runs=(len(samples_ms) // 2, len(samples_ms) - len(samples_ms) // 2),
    )


def _table() -> LatencyTable:
    """A table of five networks that lies by a few per cent."""
    rng = random.Random(1)
    architectures = [SPACE.smallest, SPACE.largest, *(SPACE.sample(rng) for _ in range(3))]
    fitted = LatencyTable.fit(
        SPACE,
        QUALIFICATION,
        [(architecture, 0.3 + 0.1 * architecture.depth + 0.001 * architecture.embed_dim) for architecture in architectures],
        device=DEVICE,
    )
    return LatencyTable(**{**fitted.__dict__, "created": "2026-01-02T03:00:00+00:00"})


def _history(names: tuple[str, ...], metric: Metric) -> list[dict[str, Any]]:
    def scores(epoch: int) -> dict[str, Any]:
        every = {name: np.arange(IMAGES) < 100 + 60 * epoch + 5 * index for index, name in enumerate(names)}
        labels = np.arange(IMAGES) % 10
        return {name: score(np.where(right, labels, 0), labels, metric).to_dict() for name, right in every.items()}

    epochs = ((1, 2.0), (2, 1.0))
    return [
        {"epoch": epoch, "loss": loss, "learning_rate": 1e-3, "seconds": 0.5, "scores": scores(epoch)} for epoch, loss in epochs
    ]


def _manifest(folder: Path, architecture: Architecture, params: int, has_int8: bool, int8_name: str, skip_reason: str) -> None:
    folder.mkdir(parents=True)
    logits = np.eye(10, dtype=np.float32)
    files = {"fp32": "model.fp32.onnx", "int8": int8_name}
    artefacts = []
    for precision, name in files.items():
        content = f"stands for {precision}".encode()
        parity = compare(logits, logits, precision=precision)
        if precision == "int8" and not has_int8:
            reason = "9 of 100 images get another class"
            artefacts.append(Artefact("onnx", precision, "rejected", reason, parity=parity))
            continue
        (folder / name).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        artefacts.append(
            Artefact("onnx", precision, "exported", parity.reason, file=name, sha256=digest, bytes=len(content), parity=parity)
        )
    artefacts.append(Artefact("tensorrt", "fp32", "skipped", skip_reason))
    manifest = Manifest(
        artefacts=tuple(artefacts),
        classes=tuple("0123456789"),
        preprocessing=PREPROCESSING,
        params=params,
        architecture=architecture,
        weights_digest="b" * 64,
    )
    manifest.save(folder)
