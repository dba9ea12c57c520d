"""The timing cache that builds share: one file per device and versions, locked, merged, and never forced on TensorRT."""

from __future__ import annotations

import fcntl
import threading
from pathlib import Path

import pytest

from autoformer.export.engines.builder import BuiltEngine, EngineBuilder, EngineConfig
from autoformer.export.engines.cuda_runtime import Gpu
from autoformer.export.engines.timing_cache import WAITING, timing_cache_name
from autoformer.export.manifest import sha256_of
from tests.support.engines import VERSIONS, Install, write_graph
from tests.support.fake_tensorrt import CACHE_MARK


def build(graph: Path) -> BuiltEngine:
    return EngineBuilder(EngineConfig(timing_cache=graph.parent / "cache")).build(graph, graph.with_name("model.plan"))


def caches(graph: Path) -> list[Path]:
    return sorted((graph.parent / "cache").glob("timing_*"))


def test_the_name_holds_everything_that_timings_depend_on() -> None:
    gpu = Gpu(name="NVIDIA RTX 4000 Ada/Gen.", compute_capability="8.9", driver="13.0", cuda="12.6")
    assert timing_cache_name(gpu, "10.3.0") == "timing_sm8.9_nvidia-rtx-4000-ada-gen._trt10.3.0_cuda12.6.cache"


@pytest.mark.parametrize("version", VERSIONS)
def test_the_second_build_starts_from_what_the_first_left(version: str, graph: Path, install: Install) -> None:
    install(version)
    first, (file,) = build(graph).timing_cache, caches(graph)
    assert first == {"file": file.name, "before": None, "after": sha256_of(file)}
    written = file.stat().st_mtime_ns
    second = build(graph).timing_cache
    assert second == {"file": file.name, "before": first["after"], "after": first["after"]}
    assert file.stat().st_mtime_ns == written, "an unchanged cache was written again"


def test_versions_and_devices_have_files_of_their_own(graph: Path, install: Install) -> None:
    for version, gpu in (("10.3.0", "A"), ("10.3.0", "B"), ("11.4.0", "A")):
        install(version, gpu=gpu)
        assert build(graph).timing_cache["before"] is None  # type: ignore[index]
    assert len(caches(graph)) == 3


@pytest.mark.parametrize("content", [b"damaged", CACHE_MARK + b'["10.3.0 another device", ["entry"]]'])
def test_a_damaged_or_foreign_cache_is_set_aside_and_the_build_goes_on(content: bytes, graph: Path, install: Install) -> None:
    install()
    build(graph)
    (file,) = caches(graph)
    good = file.read_bytes()
    file.write_bytes(content)
    built = build(graph)
    aside = next(path for path in caches(graph) if "refused" in path.name)
    assert aside.read_bytes() == content
    assert built.warnings[0] == f"timing cache {file.name} is damaged or of another device; set aside as {aside.name}"
    assert built.timing_cache == {"file": file.name, "before": None, "after": sha256_of(file)}
    assert file.read_bytes() == good


def test_what_others_wrote_meanwhile_is_merged(graph: Path, install: Install) -> None:
    install()
    build(graph)
    (file,) = caches(graph)
    others = CACHE_MARK + b'["10.3.0 Fake Orin", ["of another machine"]]'

    def tell(phase: str, done: int, total: int) -> None:
        file.write_bytes(others)  # as on a shared folder that locks do not reach

    EngineBuilder(EngineConfig(timing_cache=file.parent)).build(graph, graph.with_name("model.plan"), on_progress=tell)
    assert b"of another machine" in file.read_bytes()
    assert b"MatMul_1" in file.read_bytes()


def test_a_build_waits_for_another_that_uses_the_cache_and_says_so(graph: Path, install: Install) -> None:
    install()
    build(graph)
    (file,) = caches(graph)
    told: list[str] = []
    waits = threading.Event()

    def tell(phase: str, done: int, total: int) -> None:
        told.append(phase)
        if phase == WAITING:
            waits.set()

    def work() -> None:
        EngineBuilder(EngineConfig(timing_cache=file.parent)).build(graph, graph.with_name("other.plan"), on_progress=tell)

    thread = threading.Thread(target=work)
    with file.with_name(f".{file.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        thread.start()
        assert waits.wait(30)
        assert not graph.with_name("other.plan").exists()
    thread.join()
    assert told[:2] == [WAITING, "Building"]
    assert graph.with_name("other.plan").exists()


def test_a_build_that_fails_keeps_its_timings(graph: Path, install: Install) -> None:
    install(fail="build")
    with pytest.raises(Exception, match="no implementation"):
        build(graph)
    assert len(caches(graph)) == 1
    install()
    write_graph(graph)
    assert build(graph).timing_cache["before"] == sha256_of(caches(graph)[0])  # type: ignore[index]
