"""Files of parents of every kind: equal in every precision, legal for TensorRT, quantised as other networks are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from autoformer.architecture import Architecture
from autoformer.data.preprocessing import Preprocessing
from autoformer.export.graphs.onnx_graph import TEMPLATES, OnnxGraph, image_shape_of
from autoformer.export.graphs.onnx_model import OnnxModel
from autoformer.export.graphs.tensorrt_rules import check_tensorrt
from autoformer.export.networks.known import KnownNetwork
from autoformer.export.predictor import torch_model
from autoformer.networks.subnet import Subnet
from autoformer.pretrained.start import supernet_from_timm
from tests.support.exporting import write_export
from tests.support.parents import PARENTS
from tests.support.same_graph import difference, trained, usual_way
from tests.support.timm_networks import random_vit

FLOATS = Preprocessing(32, 3, (0.5,) * 3, (0.5,) * 3)


OPSETS = {kind: (20, 17)[index % 2] for index, kind in enumerate(PARENTS)}


def network(kind: str) -> Subnet:
    """Two blocks cut from the supernet of a parent; heads of 16 channels, as TensorRT fuses them."""
    name, options = PARENTS[kind]
    supernet = supernet_from_timm(random_vit(name, **options))
    architecture = Architecture(embed_dim=40, num_heads=(3, 2), mlp_ratio=supernet.space.mlp_ratios[1:3])
    return Subnet.from_supernet(supernet, architecture).requires_grad_(False)


def noise(count: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((count, 3, 32, 32), dtype=np.float32)


@pytest.mark.parametrize("kind", [kind for kind in PARENTS if "registers without" in kind or "quick" in kind or "two" in kind])
def test_a_graph_gives_the_logits_of_the_network(kind: str, tmp_path: Path) -> None:
    subnet, images = network(kind), noise(3)
    graph = OnnxGraph.from_network(subnet, tmp_path / "plain.onnx")
    expected = subnet(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(OnnxModel(graph.path)(images), expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "opset"), OPSETS.items())
def test_the_graph_that_is_written_from_a_template_is_that_which_torch_writes(kind: str, opset: int, tmp_path: Path) -> None:
    subnet = trained(network(kind))
    way, known = usual_way(image_shape_of(subnet), opset=opset), KnownNetwork.of(subnet)
    graph = OnnxGraph.from_network(subnet, tmp_path / "model.onnx", opset=opset)
    assert known is not None
    assert TEMPLATES.knows(known, way.of_probe(known)), "it was traced itself"
    assert difference(onnx.load(graph.path), way.traced(subnet)[0]) is None


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "opset"), OPSETS.items())
def test_every_precision_is_equal_and_legal(kind: str, opset: int, tmp_path: Path) -> None:
    subnet, images = network(kind), noise(96)
    manifest = write_export(
        subnet, tmp_path / "out", images=images, preprocessing=FLOATS, classes="abcdefg", precisions=("fp32", "fp16", "int8"),
        formats=("onnx",), opset=opset, calibration_images=64, max_disagreement=0.3,
    )  # fmt: skip
    found = {artefact.precision: artefact.status for artefact in manifest.artefacts}
    assert found == dict.fromkeys(("fp32", "fp16", "int8"), "exported")
    expected = torch_model(subnet)(images)
    for name, limit in {"fp32": 1e-5, "fp16": 2e-2, "int8": 1.0}.items():
        path = tmp_path / "out" / f"model.{name}.onnx"
        np.testing.assert_allclose(OnnxModel(path)(images[:5]), expected[:5], atol=limit * np.abs(expected).max())
        versions = ("8.6", "10.3", "11.4") if opset == 17 else ("10.3", "11.4")
        assert not [finding for finding in check_tensorrt(path, versions) if finding.level in ("fails", "risk")]
    assert manifest.flops == subnet.cost.flops
