"""`Architecture`: what it checks, and that it survives JSON, pickling and copying."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from autoformer.architecture import PUBLISHED, Architecture, SubnetGeometry
from autoformer.errors import ArchitectureError, AutoformerError

SMALL = Architecture(embed_dim=48, num_heads=(2, 3), mlp_ratio=(1.5, 2), image_size=32)


def test_depth_and_mlp_widths_follow_from_the_choices() -> None:
    assert SMALL.depth == 2
    assert SMALL.hidden_dims == (72, 96)
    truncated = Architecture(embed_dim=37, num_heads=(1,), mlp_ratio=(2.5,))
    assert truncated.hidden_dims == (92,)  # 92.5, cut off as the official code does


def test_lists_and_whole_ratios_make_the_same_value() -> None:
    same = Architecture(embed_dim=48, num_heads=[2, 3], mlp_ratio=[1.5, 2.0], image_size=32)  # type: ignore[arg-type]
    assert same == SMALL
    assert hash(same) == hash(SMALL)
    assert same.digest == SMALL.digest


def test_the_value_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        SMALL.embed_dim = 64  # type: ignore[misc]


@pytest.mark.parametrize("architecture", [SMALL, *PUBLISHED.values()])
def test_json_pickle_and_copy_give_the_same_value_back(architecture: Architecture) -> None:
    assert Architecture.from_dict(json.loads(json.dumps(architecture.to_dict()))) == architecture
    assert pickle.loads(pickle.dumps(architecture)) == architecture
    assert copy.deepcopy(architecture) == architecture


def test_the_slug_is_a_file_name_and_differs_when_any_choice_differs() -> None:
    others = [
        replace(SMALL, embed_dim=64),
        replace(SMALL, num_heads=(3, 2)),
        replace(SMALL, mlp_ratio=(2, 1.5)),
        replace(SMALL, image_size=None),
        replace(SMALL, num_heads=(2, 3, 3), mlp_ratio=(1.5, 2, 2)),
    ]
    assert len({architecture.slug for architecture in [SMALL, *others]}) == 6
    assert SMALL.slug.startswith("e48-d2-r32-")
    assert SMALL.slug.replace("-", "").isalnum()


def test_the_digest_is_the_same_in_another_process() -> None:
    command = (
        "from autoformer.architecture import Architecture;"
        "print(Architecture(embed_dim=48, num_heads=(2, 3), mlp_ratio=(1.5, 2), image_size=32).digest)"
    )
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == SMALL.digest


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": (2,)}, "1 entries in num_heads and 2 in mlp_ratio"),
        ({"num_heads": (), "mlp_ratio": ()}, "at least one block"),
        ({"embed_dim": 0}, "positive whole numbers"),
        ({"embed_dim": 48.0}, "positive whole numbers"),
        ({"embed_dim": True}, "positive whole numbers"),
        ({"num_heads": (2, -1)}, "num_heads must be whole numbers from 0"),
        ({"head_dim": 0}, "head_dim must be positive whole numbers"),
        ({"image_size": 0}, "positive whole numbers"),
        ({"mlp_ratio": (1.5, -1)}, "mlp_ratio must be from 0"),
        ({"mlp_ratio": (1.5, 0.01)}, "leaves an MLP without a hidden channel"),
        ({"mlp_ratio": (1.5, float("nan"))}, "mlp_ratio must be from 0"),
        ({"mlp_ratio": "22"}, "mlp_ratio must be a list of numbers, one per block; got '22'"),
        ({"mlp_ratio": (True, 2)}, "mlp_ratio must be a list of numbers"),
        ({"num_heads": (2, None)}, "num_heads must be a list of numbers"),
        ({"num_heads": {2: 3, 3: 4}}, "num_heads must be a list of numbers"),
    ],
)
def test_contradictions_are_refused_in_one_line(changes: dict[str, Any], message: str) -> None:
    values = {**SMALL.to_dict(), **changes}
    with pytest.raises(ArchitectureError, match=message) as caught:
        Architecture.from_dict(values)
    assert isinstance(caught.value, AutoformerError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 3}, r"unknown keys \['depth'\]"),
        ({"format": "autoformer/architecture/9"}, "format 'autoformer/architecture/9'"),
        ({"num_heads": 3}, "not an architecture"),
        ({"mlp_ratio": ["wide", 2]}, "not an architecture"),
    ],
)
def test_foreign_json_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        Architecture.from_dict({**SMALL.to_dict(), **change})


def test_missing_keys_are_named() -> None:
    with pytest.raises(ArchitectureError, match=r"missing keys \['mlp_ratio'\]"):
        Architecture.from_dict({"embed_dim": 48, "num_heads": [1]})


def test_only_the_standard_library_is_imported() -> None:
    command = (
        "import sys, autoformer.architecture, autoformer.space, autoformer.cost;"
        "print([name for name in ('torch', 'timm', 'numpy', 'pydantic', 'optuna') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_flat_form_that_timm_and_files_know_gives_architecture_and_geometry_back() -> None:
    geometry = SubnetGeometry(img_size=(16, 24), patch_size=4, trained_grid=(8, 8), num_classes=0, global_pool="", head_dim=8)
    architecture = Architecture(embed_dim=24, num_heads=(1, 2), mlp_ratio=(1.0, 2.0))
    flat = json.loads(json.dumps(geometry.arguments(architecture)))
    assert (flat["img_size"], flat["trained_grid"], flat["searched_size"]) == ([16, 24], 8, None)
    assert SubnetGeometry.of_file(flat) == SubnetGeometry.of_arguments(flat) == (architecture, geometry)
    for changes, message in (
        ({"img_size": [16, 26]}, "multiple of patch_size 4"), ({"trained_grid": 5}, "trained_grid must hold the 4×6 patches"),
        ({"searched_size": 16}, "searched_size 16 contradicts"), ({"widths": 3}, "unknown keys"),
        ({"norm_eps": True}, "norm_eps must be"), ({"img_size": 10**5}, "img_size must be"), ({"patch_size": 0}, "patch_size"),
    ):  # fmt: skip
        with pytest.raises(AutoformerError, match=message):
            SubnetGeometry.of_file({**flat, **changes})
