"""Networks of torch as ONNX files: so they are compared with other files as they would be deployed, in one runtime, in fp32."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from autoformer.errors import ExportError
from autoformer.export.graphs.onnx_graph import OnnxGraph, describe
from autoformer.export.graphs.onnx_model import OnnxModel
from autoformer.export.parity import compare
from autoformer.export.predictor import torch_model
from autoformer.pretrained.named_network import open_network

IMAGES = 4  # of noise, on which the file is compared with the network


def write_as_onnx(words: str, path: Path) -> Path:
    """Writes the network that `words` name to `path`, with its preprocessing and classes; seconds.

    Raises `CheckpointError` where there is none, and `ExportError` where it cannot be exported or gives other logits then.
    """
    named = open_network(words)
    size = named.preprocessing.input_size
    shape = (named.preprocessing.in_chans, size, size)
    about = describe(named.network, preprocessing=named.preprocessing, classes=named.classes)
    OnnxGraph.from_network(named.network, path, metadata=about.to_properties(), image_shape=shape)
    images = np.random.default_rng(0).standard_normal((IMAGES, *shape), np.float32)
    parity = compare(torch_model(named.network.eval())(images), OnnxModel(path)(images), precision="fp32")
    if not parity.passed:
        raise ExportError(f"the ONNX file of {words} differs from the network: {parity.reason}; it cannot be compared")
    return path
