"""Exports as tests ask for them: what belongs to the images and what to the settings, in one line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from autoformer.data.preprocessing import Preprocessing
from autoformer.export.artefacts import ExportSource, export_network
from autoformer.export.config import ExportConfig
from autoformer.export.manifest import Manifest


def write_export(
    network: nn.Module,
    out: Path,
    *,
    images: NDArray[Any],
    preprocessing: Preprocessing,
    classes: Sequence[str],
    labels: NDArray[np.int64] | None = None,
    on_progress: Callable[[str], None] | None = None,
    **settings: Any,
) -> Manifest:
    """`settings` are those of `ExportConfig`; the input is the type that `preprocessing` says."""
    source = ExportSource(images=images, labels=labels, preprocessing=preprocessing, classes=classes)
    config = ExportConfig.model_validate({"input": preprocessing.input_type, **settings})
    return export_network(network, out, source, config, on_progress)
