"""An engine of TensorRT or TensorRT-RTX on its resident buffers, timed by the wall and by CUDA events.

Imports the standard library at the top; the engine brings TensorRT and CUDA when it is loaded. Works on Python 3.10.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from autoformer.errors import MeasurementError
from autoformer.export.engines.tensorrt_versions import Product

WITH_GRAPH = "-graph"  # ends the names of backends that launch a CUDA graph


class TensorRTBackend:
    """A plan file, loaded and prepared for `batch`; its digest is `sha256` or stands in the manifest beside it, as its product.

    With `cuda_graph` every run launches a captured graph. Raises what `Engine.load` and `Engine.prepare` raise, and
    `MeasurementError` with the reason when a graph is asked for and the engine cannot be captured.
    """

    def __init__(
        self,
        plan: Path,
        *,
        batch: int = 1,
        precision: str = "fp32",
        sha256: str | None = None,
        cuda_graph: bool = False,
        product: Product | None = None,
    ) -> None:
        from autoformer.export.engines.engine import Engine
        from autoformer.export.engines.plans import product_of_plan

        self._product = product or product_of_plan(plan)

        self._batch, self._precision, self._cuda_graph = batch, precision, cuda_graph
        self._images: Any = None  # on the host
        with ExitStack() as stack:
            self._engine = stack.enter_context(Engine.load(plan, sha256=sha256, product=self._product))
            self._engine.prepare(batch)
            if cuda_graph and (reason := self._engine.capture()):
                raise MeasurementError(f"{plan} cannot run as a CUDA graph: {reason}; measure it without")
            self._stack = stack.pop_all()  # from here on leaving this object's own context releases the engine

    @property
    def name(self) -> str:
        """ "tensorrt" or "tensorrt-rtx", with "-graph" for one that launches a CUDA graph: the times are not comparable."""
        return self._product.format + (WITH_GRAPH if self._cuda_graph else "")

    @property
    def precision(self) -> str:
        """As given."""
        return self._precision

    @property
    def batch(self) -> int:
        """Images in one run."""
        return self._batch

    @property
    def threads(self) -> int | None:
        """None: the GPU computes."""
        return None

    @property
    def settings(self) -> Mapping[str, str]:
        """Input and output stay on the device."""
        return {"copies": "none", "cuda_graph": "on" if self._cuda_graph else "off"}

    @property
    def enqueue_ms(self) -> float | None:
        """Host time of handing the work of the last run over."""
        return self._engine.enqueue_ms

    def run_with_copies(self) -> None:
        """One inference from an array of the host to an array of the host, with both copies."""
        if self._images is None:
            self._images = self._engine.noise(self._batch)
        self._engine(self._images)

    def run(self) -> float | None:
        """One inference, waited for; milliseconds by CUDA events."""
        return self._engine.infer_timed()

    def __enter__(self) -> TensorRTBackend:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()
