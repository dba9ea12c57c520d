"""Graphs of our own networks are written from what torch showed of a probe: they are those of torch's own export."""

from __future__ import annotations

import copy
import hashlib
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import timm
import torch
from torch import nn

from autoformer.architecture import Architecture
from autoformer.data.preprocessing import Preprocessing
from autoformer.export.graphs import onnx_graph
from autoformer.export.graphs import templates as templates_module
from autoformer.export.graphs.onnx_graph import OnnxGraph, Way, image_shape_of
from autoformer.export.graphs.onnx_model import OnnxModel
from autoformer.export.graphs.templates import PROBE, SCOPES, Graph, KeptTraces, Templates
from autoformer.export.networks import grids
from autoformer.export.networks.folding import PixelInput, first_conv_of, fold_normalisation
from autoformer.export.networks.half_precision import HalfPrecision
from autoformer.export.networks.known import KnownNetwork, probe_of
from autoformer.export.networks.sizes import OddGraphError
from autoformer.files import read_json
from autoformer.networks.block import Attention
from autoformer.networks.subnet import Subnet
from autoformer.space import SearchSpace
from autoformer.tensors import tensors_digest
from tests.support.asking_spaces import ASKING
from tests.support.same_graph import difference, trained, usual_way

MICRO = SearchSpace.preset("micro", image_size=8, in_chans=3, num_classes=5)
FLOATS = Preprocessing(8, 3, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
PIXELS = replace(FLOATS, input_type="uint8")


TRACED: dict[tuple[object, ...], Graph] = {}  # of all tests here: torch takes seconds for what is the same every time


@pytest.fixture(autouse=True)
def templates(monkeypatch: pytest.MonkeyPatch) -> Templates:
    """Of this test alone; torch traces the same network once for all tests."""
    own, original = Templates(), Way.traced

    def once(self: Way, network: nn.Module) -> Graph:
        marks = [(getattr(module, "form", None), len(module._forward_hooks)) for module in network.modules()]
        what = (self, repr(network), tensors_digest(network.state_dict()), *marks)
        if what not in TRACED:
            TRACED[what] = original(self, network)
        return copy.deepcopy(TRACED[what])

    monkeypatch.setattr(Way, "traced", once)
    monkeypatch.setattr(onnx_graph, "TEMPLATES", own)
    return own


def untraced(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """What torch traces from now on."""
    seen: list[nn.Module] = []
    original = Way.traced

    def noting(self: Way, network: nn.Module) -> object:
        seen.append(network)
        return original(self, network)

    monkeypatch.setattr(Way, "traced", noting)
    return seen


# --- the same graph ------------------------------------------------------------------------------------------------


def check_networks(space: SearchSpace, count: int, tmp_path: Path, templates: Templates) -> None:
    rng, path = random.Random(0), tmp_path / "x.onnx"
    for _ in range(count):
        network = trained(Subnet.from_space(space, space.sample(rng)))
        way = usual_way(image_shape_of(network))
        OnnxGraph.from_network(network, path)
        assert all(template is not None for template in templates.learned.values()), network.architecture
        found = difference(onnx.load(path), way.traced(network)[0])
        assert found is None, f"{network.architecture}: {found}"
        images = np.random.default_rng(0).standard_normal((3, *way.image_shape), np.float32)
        with torch.no_grad():
            expected = network(torch.from_numpy(images)).numpy()
        assert np.abs(OnnxModel(path)(images) - expected).max() < 1e-5 * np.abs(expected).max()


def test_networks_of_a_space_have_the_graph_that_torch_writes(tmp_path: Path, templates: Templates) -> None:
    check_networks(MICRO, 1, tmp_path, templates)
    assert len(templates.learned) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["compact-64", "edge", "tiny"])  # benchmarks/graph_templates.py: 200 of every preset
def test_networks_of_presets_of_each_kind_have_the_graph_that_torch_writes(
    name: str, tmp_path: Path, templates: Templates
) -> None:
    check_networks(SearchSpace.preset(name), 1, tmp_path, templates)


@pytest.mark.slow
@pytest.mark.parametrize("name", ASKING)
def test_networks_that_choose_their_structure_have_the_graph_that_torch_writes(
    name: str, tmp_path: Path, templates: Templates
) -> None:
    check_networks(ASKING[name], 1, tmp_path, templates)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dress", "changes"),
    [
        (lambda network: network, {"opset": 17}),
        (lambda network: network, {"batch": 1}),
        (HalfPrecision, {"as_it_is": True}),
        (lambda network: PixelInput(fold_normalisation(network, PIXELS), PIXELS), {"input_type": "uint8"}),
        (
            lambda network: PixelInput(HalfPrecision(fold_normalisation(network, PIXELS), (first_conv_of(network),)), PIXELS),
            {"input_type": "uint8", "as_it_is": True},
        ),
    ],
    ids=["opset 17", "batch 1", "half precision", "pixels", "pixels in half precision"],
)
def test_every_way_of_export_has_the_graph_that_torch_writes(
    dress: Callable[[Subnet], nn.Module], changes: dict[str, object], tmp_path: Path, templates: Templates
) -> None:
    module = dress(trained(Subnet.from_space(MICRO, MICRO.anchors["middle"])))
    way = usual_way((3, 8, 8), **changes)
    OnnxGraph.from_network(
        module, tmp_path / "x.onnx", batch=way.batch, opset=way.opset, image_shape=(3, 8, 8), input_type=way.input_type,
        as_it_is=way.as_it_is,
    )  # fmt: skip
    assert [template is not None for template in templates.learned.values()] == [True]
    assert difference(onnx.load(tmp_path / "x.onnx"), way.traced(module)[0]) is None


# --- what is traced ------------------------------------------------------------------------------------------------


def test_torch_traces_one_probe_for_all_networks_of_a_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = untraced(monkeypatch)
    for number, network in enumerate(MICRO.anchors.values()):
        OnnxGraph.from_network(Subnet.from_space(MICRO, network), tmp_path / f"{number}.onnx")
    assert len(MICRO.anchors) > 2
    assert len(seen) == 1


@pytest.mark.slow
def test_torch_traces_one_probe_for_all_image_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, templates: Templates
) -> None:
    """Of grids that are halved too, of attention whose operands are filled up and not, and beyond what the probe has."""
    asking = replace(MICRO, image_sizes=(8, 16, 32), mlp_kernels=(0, 3), pool_after=(0, 1), patch_size=2)
    for kernels, halved_after, traces in (((0, 0, 0), 0, 1), ((0, 3, 0), 1, 3)):
        seen = untraced(monkeypatch)
        graphs = {}
        for side in asking.image_sizes:
            architecture = Architecture(
                embed_dim=48, num_heads=(2, 3, 2), mlp_ratio=(1.0, 2.0, 1.5), image_size=side, mlp_kernel=kernels,
                pool_after=halved_after,
            )  # fmt: skip
            graphs[side] = trained(Subnet.from_space(asking, architecture)), tmp_path / f"{side}.onnx"
            OnnxGraph.from_network(*graphs[side])
        assert len(seen) <= traces, "kinds of blocks, once each"
        assert all(template is not None for template in templates.learned.values())
        for side, (network, path) in graphs.items():
            assert difference(onnx.load(path), usual_way((3, side, side)).traced(network)[0]) is None
        assert len(templates.learned) == 1


@pytest.mark.slow
def test_every_kind_of_block_is_compared_at_every_image_size(tmp_path: Path, templates: Templates) -> None:
    space, known = replace(MICRO, image_sizes=(8, 16), mlp_kernels=(0, 3)), []
    for side, kernel in ((8, 0), (16, 0), (8, 3), (16, 3), (16, 0)):
        network = trained(Subnet.from_space(space, replace(space.smallest, image_size=side, mlp_kernel=(kernel,) * 3)))
        found = KnownNetwork.of(network)
        assert found is not None
        known.append(templates.knows(found, usual_way((3, side, side)).of_probe(found)))
        OnnxGraph.from_network(network, tmp_path / "x.onnx")
    assert known == [False, False, False, False, True]


def test_a_graph_for_images_of_another_size_that_gives_other_logits_is_not_delivered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, templates: Templates
) -> None:
    space = replace(MICRO, image_sizes=(8, 16))
    first, other = (trained(Subnet.from_space(space, replace(space.smallest, image_size=side))) for side in (8, 16))
    OnnxGraph.from_network(first, tmp_path / "8.onnx")
    assert KnownNetwork.of(other) is not None  # whose probe is that of the first
    right = grids._numbers
    monkeypatch.setattr(grids, "_numbers", lambda grid: {**right(grid), "columns": grid.rows + 1})
    seen = untraced(monkeypatch)
    OnnxGraph.from_network(other, tmp_path / "16.onnx")
    assert seen == [other]
    images = np.random.default_rng(0).standard_normal((2, 3, 16, 16), np.float32)
    with torch.no_grad():
        expected = other(torch.from_numpy(images)).numpy()
    assert np.abs(OnnxModel(tmp_path / "16.onnx")(images) - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.slow
def test_modules_are_named_in_the_side_file_as_in_torchs_own_export(tmp_path: Path) -> None:
    network = trained(Subnet.from_space(MICRO, MICRO.anchors["smallest"]))
    graph = OnnxGraph.from_network(network, tmp_path / "x.onnx")
    scopes = read_json(graph.scopes_path)
    assert {node.name for node in onnx.load(graph.path).graph.node} == set(scopes)
    _, own = usual_way((3, 8, 8)).traced(network)
    assert sorted(scopes.values()) == sorted(own.values())


@pytest.mark.slow
def test_a_network_with_a_part_that_is_not_as_it_was_made_is_traced_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, templates: Templates
) -> None:
    class Twice(nn.Module):
        def __init__(self, part: nn.Module) -> None:
            super().__init__()
            self.part = part

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * self.part(x)  # type: ignore[no-any-return]

    network = trained(Subnet.from_space(MICRO, MICRO.anchors["smallest"]))
    network.blocks[1].mlp = Twice(network.blocks[1].mlp)  # type: ignore[arg-type]
    seen = untraced(monkeypatch)
    OnnxGraph.from_network(network, tmp_path / "x.onnx")
    assert seen[-1] is network
    images = np.random.default_rng(0).standard_normal((2, 3, 8, 8), np.float32)
    expected = network(torch.from_numpy(images)).numpy()
    assert np.abs(OnnxModel(tmp_path / "x.onnx")(images) - expected).max() < 1e-5


@pytest.mark.slow
def test_a_file_that_does_not_give_the_networks_logits_is_not_delivered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, templates: Templates
) -> None:
    """A network that computes otherwise than its modules say, which only its logits show."""
    network = trained(Subnet.from_space(MICRO, MICRO.anchors["smallest"]))
    network.register_forward_hook(lambda module, inputs, logits: 2 * logits)
    templates.kept = KeptTraces(tmp_path / "traces")
    OnnxGraph.from_network(network, tmp_path / "x.onnx")
    assert list(templates.learned.values()) == [None]
    assert not list((tmp_path / "traces").iterdir()), "what misled is not kept"
    images = np.random.default_rng(0).standard_normal((2, 3, 8, 8), np.float32)
    expected = network(torch.from_numpy(images)).numpy()
    assert np.abs(OnnxModel(tmp_path / "x.onnx")(images) - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.slow
def test_a_grid_that_is_halved_before_nothing_is_written_and_a_network_of_empty_blocks_is_traced(
    tmp_path: Path, templates: Templates
) -> None:
    space = replace(ASKING["patches"], num_heads=(0, 1), mlp_ratios=(0.0, 1.0), mlp_kernels=(0,))
    for number, (heads, ratio, learned) in enumerate([((1, 0, 0), (1.0, 0.0, 0.0), True), ((0, 0, 0), (0.0,) * 3, False)]):
        architecture = Architecture(embed_dim=16, num_heads=heads, mlp_ratio=ratio, image_size=16, patch_size=4, pool_after=1)
        network, path = trained(Subnet.from_space(space, architecture)), tmp_path / f"{number}.onnx"
        OnnxGraph.from_network(network, path)
        assert list(templates.learned.values())[-1] is not None or not learned
        assert difference(onnx.load(path), usual_way((3, 16, 16)).traced(network)[0]) is None


def test_what_a_timm_network_is_has_to_be_traced() -> None:
    assert KnownNetwork.of(timm.create_model("test_vit")) is None


def test_half_precision_in_another_form_than_it_brings_is_traced() -> None:
    half = HalfPrecision(trained(Subnet.from_space(MICRO, MICRO.smallest)))
    assert KnownNetwork.of(half) is not None
    for module in half.modules():
        if isinstance(module, Attention):
            module.form = "bias"
    assert KnownNetwork.of(half) is None, "a template of half precision is of the form `fused`"


# --- traces that are kept -------------------------------------------------------------------------------------------


def test_a_trace_is_kept_for_the_next_process_and_gives_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, seen = trained(Subnet.from_space(MICRO, MICRO.smallest)), untraced(monkeypatch)
    kept, files = KeptTraces(tmp_path / "traces"), list[bytes]()
    for turn in range(3):
        monkeypatch.setattr(onnx_graph, "TEMPLATES", Templates(kept))  # as in a process of its own
        files.append(OnnxGraph.from_network(network, tmp_path / f"{turn}.onnx").path.read_bytes())
        assert len(seen) == 1, "one probe, once"
    assert files[0] == files[1] == files[2]
    names = [read_json(tmp_path / f"{turn}.scopes.json") for turn in range(3)]
    assert names[0] == names[1] == names[2]


@pytest.mark.parametrize("damage", [b"", b"x" * 100, None])
def test_a_damaged_trace_is_made_again(damage: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, seen = trained(Subnet.from_space(MICRO, MICRO.smallest)), untraced(monkeypatch)
    kept = KeptTraces(tmp_path / "traces")
    monkeypatch.setattr(onnx_graph, "TEMPLATES", Templates(kept))
    whole = OnnxGraph.from_network(network, tmp_path / "a.onnx").path.read_bytes()
    (path,) = (tmp_path / "traces").iterdir()
    path.write_bytes(path.read_bytes()[:-1] if damage is None else damage)
    monkeypatch.setattr(onnx_graph, "TEMPLATES", Templates(kept))
    assert OnnxGraph.from_network(network, tmp_path / "b.onnx").path.read_bytes() == whole
    assert len(seen) == 2
    monkeypatch.setattr(onnx_graph, "TEMPLATES", Templates(kept))
    OnnxGraph.from_network(network, tmp_path / "c.onnx")
    assert len(seen) == 2, "it is whole again"


def test_a_trace_that_nothing_can_be_learned_from_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As another processor's random numbers would be."""
    network, seen = trained(Subnet.from_space(MICRO, MICRO.smallest)), untraced(monkeypatch)
    kept = KeptTraces(tmp_path / "traces")
    monkeypatch.setattr(onnx_graph, "TEMPLATES", Templates(kept))
    whole = OnnxGraph.from_network(network, tmp_path / "a.onnx").path.read_bytes()
    (path,) = (tmp_path / "traces").iterdir()
    other = OnnxGraph.from_network(trained(Subnet.from_space(MICRO, MICRO.largest)), tmp_path / "o.onnx")
    content = onnx.load(other.path)
    onnx.helper.set_model_props(content, {SCOPES: "{}", PROBE: path.stem})
    path.write_bytes(hashlib.sha256(content.SerializeToString()).digest() + content.SerializeToString())
    monkeypatch.setattr(onnx_graph, "TEMPLATES", Templates(kept))
    assert OnnxGraph.from_network(network, tmp_path / "b.onnx").path.read_bytes() == whole
    assert len(seen) == 2


EMPTY = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], []))


def untraceable() -> tuple[onnx.ModelProto, dict[str, str]]:
    raise AssertionError("it was kept")


def test_a_trace_under_the_name_of_another_probe_is_made_again(tmp_path: Path) -> None:
    kept = KeptTraces(tmp_path)
    for name in ("one", "other"):
        kept.keep(name, (EMPTY, {"of": name}))
    one, other = kept.path_of("one"), kept.path_of("other")
    assert one is not None
    assert other is not None
    shutil.copy(other, one)
    assert kept.graph_of("one", lambda: (EMPTY, {"of": "one"})) == ((EMPTY, {"of": "one"}), False)
    assert kept.graph_of("one", untraceable)[0][1] == {"of": "one"}


def test_a_trace_that_somebody_else_owns_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = KeptTraces(tmp_path)
    kept.keep("probe", (EMPTY, {"a": "b"}))

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "utime", refuse)
    assert kept.graph_of("probe", untraceable) == ((EMPTY, {"a": "b"}), True)


def test_a_user_without_a_home_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert KeptTraces().path_of("x") is None
    assert KeptTraces().graph_of("x", lambda: (EMPTY, {})) == ((EMPTY, {}), False)
    KeptTraces().forget("x")


def test_odd_entries_do_not_keep_old_traces_from_going(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates_module, "MOST_FILES", 2)
    (tmp_path / "dangling.onnx").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder.onnx").mkdir()
    os.utime(tmp_path / "folder.onnx", (0, 0))
    for name in range(5):
        KeptTraces(tmp_path).keep(name, (EMPTY, {}))
    assert sum(path.is_file() for path in tmp_path.iterdir()) == 2


def test_a_width_of_a_probe_divides_no_other_number_of_its_family() -> None:
    space = replace(MICRO, num_classes=1021 * 1031)
    with torch.device("meta"):  # numbers of weights without weights
        known = KnownNetwork.of(Subnet.from_space(space, space.smallest))
        assert known is not None
        assert probe_of(known.family, known.kinds_to_learn).sizes[0].width == 1033


@pytest.mark.slow
@pytest.mark.parametrize("classes", [1021, 2042])
def test_as_many_classes_as_a_probe_is_wide_are_classes(classes: int, tmp_path: Path, templates: Templates) -> None:
    space = replace(MICRO, num_classes=classes)
    graph = OnnxGraph.from_network(trained(Subnet.from_space(space, space.smallest)), tmp_path / "x.onnx")
    assert next(iter(templates.learned.values())) is not None
    assert graph.num_classes == classes


@pytest.mark.parametrize(("kind", "setting", "value"), [(nn.LayerNorm, "eps", 0.3), (nn.GELU, "approximate", "tanh")])
def test_a_network_whose_parts_were_set_otherwise_has_no_probe(kind: type[nn.Module], setting: str, value: object) -> None:
    network = Subnet.from_space(MICRO, MICRO.smallest)
    before = KnownNetwork.of(network)
    for module in network.modules():
        if isinstance(module, kind):
            setattr(module, setting, value)
    after = KnownNetwork.of(network)
    assert before is not None
    assert after is not None
    assert after.kinds != before.kinds
    with pytest.raises(OddGraphError, match="other modules"):
        probe_of(after.family, after.kinds_to_learn)


@pytest.mark.slow
def test_what_is_kept_of_one_network_serves_those_whose_kinds_of_blocks_stand_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = replace(MICRO, num_heads=(0, 2), mlp_kernels=(0, 3))
    seen, kept = untraced(monkeypatch), KeptTraces(tmp_path / "traces")
    for number, (heads, kernels) in enumerate([((2, 0, 2), (0, 3, 0)), ((0, 2, 2), (3, 0, 0)), ((2, 2, 2), (0, 0, 0))]):
        architecture = Architecture(embed_dim=48, num_heads=heads, mlp_ratio=(1.0, 1.0, 1.0), mlp_kernel=kernels)
        monkeypatch.setattr(onnx_graph, "TEMPLATES", Templates(kept))  # as in a process of its own
        OnnxGraph.from_network(trained(Subnet.from_space(space, architecture)), tmp_path / f"{number}.onnx")
        assert len(seen) == 2, "two kinds of blocks, once each"


def test_a_place_that_cannot_be_written_keeps_nothing_and_the_oldest_traces_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    graph, was_kept = KeptTraces(tmp_path / "file").graph_of("probe", lambda: (EMPTY, {"a": "b"}))
    assert (graph, was_kept) == ((EMPTY, {"a": "b"}), False)
    monkeypatch.setattr(templates_module, "MOST_FILES", 2)
    kept = KeptTraces(tmp_path / "traces")
    for age, name in enumerate(("first", "second", "third")):
        kept.keep(name, (EMPTY, {"n": name}))
        if (path := kept.path_of(name)) is not None and path.exists():
            os.utime(path, (age, age))
    assert len(list((tmp_path / "traces").iterdir())) == 2
    with pytest.raises(AssertionError, match="it was kept"):
        kept.graph_of("first", untraceable)
    assert kept.graph_of("third", untraceable) == ((EMPTY, {"n": "third"}), True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    place = KeptTraces().path_of("x")
    assert place is not None
    assert place.parent == tmp_path / "cache" / "autoformer" / "traces"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which its specification says to ignore
    place = KeptTraces().path_of("x")
    assert place is not None
    assert place.parent == Path.home() / ".cache" / "autoformer" / "traces"
