"""A measurement on scripted clocks, where every number is known by hand."""

from __future__ import annotations

from autoformer.profiling.measuring.device import DeviceFacts, GpuFacts
from autoformer.profiling.measuring.measure import MeasureConfig, Measurement, measure
from tests.support.fakes import ScriptedBackend

FACTS = DeviceFacts(
    cpu="Test CPU",
    cores=2,
    governor=None,
    load_average=0.5,
    isa=("avx2",),
    memory_mib=1000,
    operating_system="Test OS",
    python="3.11",
    gpus=(GpuFacts("Test GPU", "1.0", "9.0", 1000),),
)
QUICK = MeasureConfig(
    warmup_s=0, warmup_max_s=1, warmup_window=2, settle=0.5, rounds=3, lead_in_runs=1, min_runs=30, min_s=0, max_s=10
)


def one(backend: ScriptedBackend, config: MeasureConfig = QUICK) -> Measurement:
    cpu_clock = backend.cpu_clock or backend.clock
    return measure({"a": backend}, config, clock=backend.clock, cpu_clock=cpu_clock, device=FACTS)["a"]
