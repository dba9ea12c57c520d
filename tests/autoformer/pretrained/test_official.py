"""Official checkpoints: the numbers of the official code, and files that must be refused.

`data/official_small.*` were recorded with the official code: a small supernet with random weights, its logits in float32 and
float64, and gradients.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from autoformer.architecture import Architecture
from autoformer.data.preprocessing import Preprocessing
from autoformer.errors import ArchitectureError, CheckpointError
from autoformer.networks.folders import load_subnet, save_subnet
from autoformer.networks.subnet import Subnet
from autoformer.networks.supernet import Supernet
from autoformer.pretrained.foreign_weights import read_foreign_weights
from autoformer.pretrained.official import OfficialForm, import_official, load_official
from autoformer.space import SearchSpace

DATA = Path(__file__).parents[2] / "data"
RECORD = json.loads((DATA / "official_small.json").read_text())
CASES = {case["id"]: case for case in RECORD["cases"]}


@pytest.fixture(scope="module")
def numbers() -> dict[str, np.ndarray[Any, Any]]:
    with np.load(DATA / "official_small.npz") as file:
        return dict(file)


def official_weights(numbers: dict[str, np.ndarray[Any, Any]]) -> dict[str, Tensor]:
    return {
        name.removeprefix("state/"): torch.from_numpy(value.astype(np.float32))
        for name, value in numbers.items()
        if name.startswith("state/")
    }


def load_case(numbers: dict[str, np.ndarray[Any, Any]], flags: dict[str, bool]) -> Supernet:
    weights = official_weights(numbers)
    if not flags["relative_position"]:
        weights = {name: tensor for name, tensor in weights.items() if "rel_pos" not in name}
    model = RECORD["model"]
    form = OfficialForm(
        image_size=model["img_size"],
        patch_size=model["patch_size"],
        num_heads=model["num_heads"],
        max_relative_position=model["max_relative_position"],
        global_pool=flags["gp"],
        relative_position=flags["relative_position"],
        absolute_position=flags["abs_pos"],
        change_qkv=flags["change_qkv"],
    )
    return load_official(weights, form).eval()


def architecture_of(config: dict[str, Any]) -> Architecture:
    return Architecture(
        embed_dim=config["embed_dim"][0], num_heads=tuple(config["num_heads"]), mlp_ratio=tuple(config["mlp_ratio"])
    )


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("form", ["auto", "bias", "fused", "tiled"])
def test_logits_are_those_of_the_official_code(numbers: dict[str, np.ndarray[Any, Any]], name: str, form: Any) -> None:
    supernet = load_case(numbers, CASES[name]["flags"])
    supernet.form = form
    architecture = architecture_of(CASES[name]["config"])
    images = torch.from_numpy(numbers["x"].astype(np.float32))
    with torch.no_grad():
        single = supernet(images, architecture)
        double = supernet.double()(images.double(), architecture)
    np.testing.assert_allclose(single.numpy(), numbers[f"{name}/logits"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(double.numpy(), numbers[f"{name}/logits64"], rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", CASES)
def test_extracted_networks_give_the_official_logits(numbers: dict[str, np.ndarray[Any, Any]], name: str, tmp_path: Path) -> None:
    supernet = load_case(numbers, CASES[name]["flags"]).double()
    subnet = Subnet.from_supernet(supernet, architecture_of(CASES[name]["config"])).eval()
    images = torch.from_numpy(numbers["x"]).double()
    with torch.no_grad():
        np.testing.assert_allclose(subnet(images).numpy(), numbers[f"{name}/logits64"], rtol=0, atol=1e-11)
    assert subnet.cost.params == CASES[name]["numel_true"] == sum(weight.numel() for weight in subnet.parameters())

    # A saved folder keeps the logit scale.
    preprocessing = Preprocessing(image_size=32, in_chans=3, mean=(0.5,) * 3, std=(0.5,) * 3)
    save_subnet(subnet, tmp_path / "subnet", preprocessing=preprocessing, classes="abcdefg", record={})
    loaded, *_ = load_subnet(tmp_path / "subnet")
    with torch.no_grad():
        np.testing.assert_allclose(loaded.double()(images).numpy(), numbers[f"{name}/logits64"], rtol=0, atol=1e-5)


def test_gradients_are_those_of_the_official_code(numbers: dict[str, np.ndarray[Any, Any]]) -> None:
    supernet = load_case(numbers, CASES["mid"]["flags"])
    logits = supernet(torch.from_numpy(numbers["x"].astype(np.float32)), architecture_of(CASES["mid"]["config"]))
    loss = F.cross_entropy(logits, torch.from_numpy(numbers["y"]))
    loss.backward()
    assert loss.item() == pytest.approx(float(numbers["mid/loss"]), abs=1e-6)
    attention = supernet.blocks[1].attn
    for ours, official in (
        ("key_rows", "k.embeddings_table_v"), ("key_columns", "k.embeddings_table_h"),
        ("value_rows", "v.embeddings_table_v"), ("value_columns", "v.embeddings_table_h"),
    ):  # fmt: skip
        expected = numbers[f"mid/grad/blocks.1.attn.rel_pos_embed_{official}"]
        found = getattr(attention, ours).grad.numpy()
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_every_size_the_weights_hold_is_a_member_and_nothing_larger(numbers: dict[str, np.ndarray[Any, Any]]) -> None:
    space = load_case(numbers, CASES["mid"]["flags"]).space
    assert (space.stored_embed_dim, space.stored_hidden_dim, space.depths[-1], space.head_dim) == (128, 384, 3, 64)
    assert (space.in_chans, space.num_classes) == (3, 7)
    assert space.contains(Architecture(embed_dim=37, num_heads=(1, 2), mlp_ratio=(0.7, 3.0)))
    for too_large in (
        Architecture(embed_dim=129, num_heads=(1,), mlp_ratio=(1,)),
        Architecture(embed_dim=128, num_heads=(3,), mlp_ratio=(1,)),
        Architecture(embed_dim=128, num_heads=(1,), mlp_ratio=(3.1,)),
        Architecture(embed_dim=128, num_heads=(1,) * 4, mlp_ratio=(1,) * 4),
    ):
        assert not space.contains(too_large)
    fixed = load_case(numbers, CASES["fixedqkv"]["flags"]).space
    with pytest.raises(ArchitectureError, match="fixed query width has 2"):
        fixed.check(Architecture(embed_dim=112, num_heads=(1, 2), mlp_ratio=(1, 1)))


@pytest.mark.parametrize("hidden", [7, 333, 401])
def test_the_mlp_width_is_kept_when_its_ratio_is_no_round_number(numbers: dict[str, np.ndarray[Any, Any]], hidden: int) -> None:
    weights = official_weights(numbers)
    for index in range(3):
        weights[f"blocks.{index}.fc1.weight"] = torch.zeros(hidden, 128)
        weights[f"blocks.{index}.fc1.bias"] = torch.zeros(hidden)
        weights[f"blocks.{index}.fc2.weight"] = torch.zeros(128, hidden)
    space = load_official(weights, OfficialForm(image_size=32, patch_size=8, num_heads=2)).space
    assert space.stored_hidden_dim == hidden
    assert space.largest.hidden_dims == (hidden,) * 3


# --- weights that do not fit -------------------------------------------------------------------------------------


def refusal(weights: dict[str, Tensor], **changes: Any) -> str:
    arguments: dict[str, Any] = {"image_size": 32, "patch_size": 8, "num_heads": 2, **changes}
    with pytest.raises(CheckpointError) as caught:
        load_official(weights, OfficialForm(**arguments))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_missing_unexpected_and_misshapen_tensor_is_named(numbers: dict[str, np.ndarray[Any, Any]]) -> None:
    weights = official_weights(numbers)
    del weights["norm.bias"], weights["blocks.0.fc2.bias"], weights["blocks.2.fc2.bias"]
    weights["blocks.1.attn.extra"] = torch.zeros(1)
    weights["blocks.1.attn.proj.weight"] = torch.zeros(128, 64)
    message = refusal(weights)
    assert "missing blocks.{0,2}.fc2.bias, norm.bias" in message
    assert "unexpected blocks.1.attn.extra" in message
    assert "misshapen blocks.1.attn.proj.weight [128, 64], expected [128, 128]" in message


def test_wrong_settings_and_foreign_weights_are_refused(numbers: dict[str, np.ndarray[Any, Any]]) -> None:
    weights = official_weights(numbers)
    assert "pos_embed [1, 17, 128], expected [1, 65, 128]" in refusal(weights, image_size=64)
    assert "[30, 64], expected [30, 32]" in refusal(weights, num_heads=4)
    assert "3 heads do not divide" in refusal(weights, num_heads=3)
    assert "[30, 64], expected [16, 64]" in refusal(weights, max_relative_position=7)
    assert "unexpected blocks.{0,1,2}.attn.rel_pos_embed_k" in refusal(weights, relative_position=False)
    assert "unexpected pos_embed" in refusal(weights, absolute_position=False)
    assert "patch_embed_super.proj.weight is missing" in refusal({"conv1.weight": torch.zeros(3)})
    assert "head.weight is of shape [7]" in refusal({**weights, "head.weight": torch.zeros(7)})


# --- files -------------------------------------------------------------------------------------------------------


class Payload:
    """Creates a file when an unpickler runs it."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.trace}",)


def test_the_training_scripts_file_is_read_with_its_namespace(numbers: dict[str, np.ndarray[Any, Any]], tmp_path: Path) -> None:
    weights = official_weights(numbers)
    torch.save(
        {"model": weights, "optimizer": {"state": {}}, "epoch": 499, "args": argparse.Namespace(lr=5e-4, gp=True)},
        tmp_path / "training.pth",
    )
    torch.save(weights, tmp_path / "weights.pth")
    for name in ("training.pth", "weights.pth"):
        found = read_foreign_weights(tmp_path / name)
        assert set(found) == set(weights)
        assert all(torch.equal(found[key], weights[key]) for key in weights)


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle"])
def test_a_payload_in_the_file_does_not_run(tmp_path: Path, kind: str) -> None:
    trace, path = tmp_path / "trace", tmp_path / "bad.pth"
    content = {"model": {"head.weight": torch.zeros(2)}, "args": Payload(trace)}
    if kind == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(CheckpointError, match="was not loaded and nothing in it was run") as caught:
        read_foreign_weights(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not trace.exists()

    torch.load(path, weights_only=False) if kind != "pickle" else pickle.loads(path.read_bytes())
    assert trace.exists()  # the payload would have run


def test_only_a_namespace_is_accepted_besides_plain_values(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save({"model": {"a": torch.zeros(1)}, "args": Path("here")}, path)
    with pytest.raises(CheckpointError, match=r"pathlib"):
        read_foreign_weights(path)
    torch.save({"args": argparse.Namespace()}, path)
    with pytest.raises(pickle.UnpicklingError, match="argparse"):  # the permission ends with the call
        torch.load(path, weights_only=True)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_refused_in_one_line(numbers: dict[str, np.ndarray[Any, Any]], tmp_path: Path, share: float) -> None:
    path = tmp_path / "cut.pth"
    torch.save({"model": official_weights(numbers)}, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match=r"cut\.pth") as caught:
        read_foreign_weights(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [{"model": {}}, {"model": {"a": 1}}, [torch.zeros(1)], torch.zeros(1), {"epoch": 3}])
def test_a_file_without_weights_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match="holds no weights"):
        read_foreign_weights(tmp_path / "none.pth")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"absent\.pth does not exist"):
        read_foreign_weights(tmp_path / "absent.pth")


def test_a_file_is_imported_into_its_space_only(numbers: dict[str, np.ndarray[Any, Any]], tmp_path: Path) -> None:
    path = tmp_path / "small.pth"
    torch.save({"model": official_weights(numbers)}, path)
    space = SearchSpace(
        name="own", embed_dims=(96, 112), depths=(2, 3), num_heads=(1, 2), mlp_ratios=(2.0, 3.0), image_sizes=(32,),
        patch_size=8, super_embed_dim=128,
    )  # fmt: skip
    supernet = import_official(path, space)
    assert supernet.space.embed_dims == (96, 112)
    assert supernet.space.num_classes == 7
    assert supernet.space.prefix_qkv_bias
    architecture = architecture_of(CASES["mid"]["config"])
    free = load_case(numbers, CASES["mid"]["flags"])
    member = Architecture(embed_dim=112, num_heads=(2, 1, 2), mlp_ratio=(3.0, 2.0, 2.0))
    images = torch.from_numpy(numbers["x"].astype(np.float32))
    with torch.no_grad():
        assert torch.equal(supernet.eval()(images, member), free(images, member))
    with pytest.raises(ArchitectureError, match=r"mlp_ratio 2\.5"):
        supernet(images, architecture)

    for changes, message in (
        ({"depths": (2,)}, "depth is 3 in the file and 2 in the space"),
        ({"mlp_ratios": (2.0,)}, "MLP width is 384 in the file and 256 in the space"),
        ({"super_embed_dim": 112}, "width is 128 in the file and 112 in the space"),
        ({"num_heads": (4,)}, "query width is 128 in the file and 256 in the space"),
    ):
        with pytest.raises(CheckpointError, match=message):
            import_official(path, replace(space, **changes))


# --- files made to harm ------------------------------------------------------------------------------------------

OWN = SearchSpace(
    name="own", embed_dims=(96, 112), depths=(2, 3), num_heads=(1, 2), mlp_ratios=(2.0, 3.0), image_sizes=(32,), patch_size=8,
    super_embed_dim=128,
)  # fmt: skip


def import_refusal(path: Path, space: SearchSpace = OWN) -> str:
    with pytest.raises(CheckpointError) as caught:
        import_official(path, space)
    message = str(caught.value)
    assert message.isprintable()
    assert path.name in message
    assert len(message) < 3000
    return message


def shared(*shape: int) -> Tensor:
    return torch.zeros(1).expand(shape)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blocks.3000000000.x": torch.zeros(1)}, "unexpected blocks.3000000000.x"),
        ({"blocks.5000.x": torch.zeros(1)}, "unexpected blocks.5000.x"),
        ({"blocks.900.x": torch.zeros(1)}, "depth is 901 in the file and 3 in the space"),
        ({"blocks." + "9" * 5000 + ".x": torch.zeros(1)}, "unexpected 'blocks.9999"),
        ({f"odd{number}": torch.zeros(1) for number in range(3000)}, "and 2980 more"),
        ({"line\nbreak": torch.zeros(1), "\x1b[31m": torch.zeros(1)}, r"unexpected '\x1b[31m', 'line\nbreak'"),
        ({"head.weight": torch.zeros(7, 128).to_sparse()}, "not dense: head.weight"),
        ({"head.weight": torch.empty(7, 128, device="meta")}, "not dense: head.weight"),
        ({"head.bias": torch.zeros(7, dtype=torch.complex64)}, "no floating numbers: head.bias"),
        ({"head.bias": torch.zeros(7, dtype=torch.long)}, "no floating numbers: head.bias"),
        ({"head.bias": torch.zeros(7, dtype=torch.bool)}, "no floating numbers: head.bias"),
        ({"head.bias": torch.full((7,), float("nan"))}, "not finite: head.bias"),
        ({"head.weight": shared(10**8, 128)}, "repeat fewer numbers than their shape has: head.weight"),
        ({"patch_embed_super.proj.weight": shared(10**8, 3, 8, 8)}, "repeat fewer numbers than their shape has"),
        ({"head.weight": torch.zeros(0, 128)}, "head.weight is of shape [0, 128]"),
    ],
    ids=lambda value: None if isinstance(value, str) else next(iter(value))[:30],
)
def test_weights_of_a_hostile_kind_are_refused_in_one_line_naming_the_file(
    numbers: dict[str, np.ndarray[Any, Any]], tmp_path: Path, changes: dict[str, Tensor], message: str
) -> None:
    torch.save({"model": {**official_weights(numbers), **changes}}, tmp_path / "odd.pth")
    assert message in import_refusal(tmp_path / "odd.pth")


def test_tensors_that_share_one_memory_take_none_of_their_own(numbers: dict[str, np.ndarray[Any, Any]], tmp_path: Path) -> None:
    weights = official_weights(numbers)
    pool = torch.zeros(max(tensor.numel() for tensor in weights.values()))
    torch.save({name: pool[: tensor.numel()].view(tensor.shape) for name, tensor in weights.items()}, tmp_path / "pool.pth")
    assert "share their memory" in import_refusal(tmp_path / "pool.pth")


@pytest.mark.parametrize("num_heads", [0, -1, 10**9, 2.0, True])
def test_a_number_of_heads_beyond_belief_is_refused_before_memory_is_taken(
    numbers: dict[str, np.ndarray[Any, Any]], num_heads: Any
) -> None:
    assert "num_heads must be a whole number from 1 to 1024" in refusal(official_weights(numbers), num_heads=num_heads)


def test_sizes_that_no_network_has_are_refused(numbers: dict[str, np.ndarray[Any, Any]]) -> None:
    weights = official_weights(numbers)
    assert "image size 33 is not a multiple" in refusal(weights, image_size=33)
    assert "mlp_ratios must be from 0 to below 1000" in refusal({**weights, "blocks.0.fc1.weight": torch.zeros(128_001, 128)})


@pytest.mark.parametrize("changes", [{"norm_eps": 1e-2}, {"any_up_to_largest": True}, {"sharing": "classical"}])
def test_a_space_that_contradicts_what_the_official_code_trains_is_refused(
    numbers: dict[str, np.ndarray[Any, Any]], tmp_path: Path, changes: dict[str, Any]
) -> None:
    torch.save({"model": official_weights(numbers)}, tmp_path / "small.pth")
    assert next(iter(changes)) in import_refusal(tmp_path / "small.pth", replace(OWN, **changes))


def test_a_space_with_a_fixed_query_width_imports_weights_trained_that_way(
    numbers: dict[str, np.ndarray[Any, Any]], tmp_path: Path
) -> None:
    torch.save({"model": official_weights(numbers)}, tmp_path / "small.pth")
    space = replace(OWN, num_heads=(2,), scale_by_width=True, depths=(2, 3), mlp_ratios=(2.0, 2.5, 3.0))
    supernet = import_official(tmp_path / "small.pth", space).eval()
    assert not supernet.space.prefix_qkv_bias
    free = load_case(numbers, CASES["fixedqkv"]["flags"])
    architecture = space.largest
    images = torch.from_numpy(numbers["x"].astype(np.float32))
    with torch.no_grad():
        assert torch.equal(supernet(images, architecture), free(images, architecture))
