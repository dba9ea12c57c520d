"""Learning a teacher's features through a projector that is dropped at the end."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from autoformer.data.parts import DataParts
from autoformer.errors import CheckpointError, TrainingError
from autoformer.networks.folders import load_subnet, load_supernet
from autoformer.networks.subnet import Subnet
from autoformer.networks.supernet import Supernet
from autoformer.pretrained.classifier import classifier_from
from autoformer.tensors import read_tensors, tensors_digest
from autoformer.training.choosing import only_one
from autoformer.training.config import FinetuneConfig, ParentConfig, SubnetsConfig, SupernetConfig, TeacherConfig
from autoformer.training.features import Projector, apart, features_shown, pupil_of, with_features
from autoformer.training.runs import finetune, train_supernet
from autoformer.training.teacher import Teacher
from autoformer.training.trainer import Trainer
from tests.support.trainings import QUICK, SPACE, dying_at, trainer_of, write_teacher

WIDE = replace(SPACE, embed_dims=(40,), num_heads=(2,))


@pytest.fixture(scope="module")
def teacher(parts: DataParts, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A network of 40 channels."""
    return write_teacher(parts, tmp_path_factory.mktemp("teacher") / "network", WIDE)


def learning(teacher: str, /, **changes: Any) -> SupernetConfig:
    values = {**QUICK.model_dump(), "teacher": {"network": teacher, "features": 0.5}, **changes}
    return SupernetConfig.model_validate(values)


# --- features ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["vit_tiny_patch16_224", "test_resnet", "test_convnext", "mobilenetv3_small_050", "test_efficientnet"],
)
def test_features_of_timms_networks_are_what_timm_calls_so(name: str) -> None:
    """`forward_head(..., pre_logits=True)`, by name; logits are those of the network."""
    torch.manual_seed(0)
    options = {"img_size": 32, "patch_size": 8} if name.startswith("vit") else {}
    network = timm.create_model(name, num_classes=5, **options).eval()
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        logits, features = with_features(network, partial(network, images))
        expected = network.forward_head(network.forward_features(images), pre_logits=True)
        assert torch.equal(logits, network(images))
    assert features is not None
    assert torch.allclose(features, expected.flatten(1), atol=1e-6)
    assert features_shown(network.train(), images) == features.shape[1]
    assert network.training
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_features_of_a_distilled_network_are_the_mean_of_its_two_tokens() -> None:
    torch.manual_seed(0)
    network = timm.create_model("deit_tiny_distilled_patch16_224", img_size=32, num_classes=5).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        _, features = with_features(network, partial(network, images))
        tokens = network.forward_features(images)
    assert features is not None
    assert torch.allclose(features, tokens[:, :2].mean(1), atol=1e-6)


@pytest.mark.parametrize("pooling", ["token", "mean"])
def test_a_subnet_shows_the_features_that_its_supernet_shows(pooling: Literal["mean", "token"]) -> None:
    torch.manual_seed(0)
    supernet = Supernet(replace(SPACE, pooling=pooling)).eval()
    images = torch.randn(3, 1, 8, 8)
    for architecture in (SPACE.smallest, SPACE.largest):
        subnet = Subnet.from_supernet(supernet, architecture)
        with torch.no_grad():
            _, ours = with_features(supernet, partial(supernet, images, architecture))
            tokens = subnet.forward_features(images)
            expected = tokens[:, 1:].mean(1) if pooling == "mean" else tokens[:, 0]
            _, cut = with_features(subnet, partial(subnet, images))
        assert ours is not None
        assert cut is not None
        assert torch.allclose(ours, expected, atol=1e-6)
        assert torch.allclose(cut, expected, atol=1e-6)


def test_the_distance_is_that_of_the_directions() -> None:
    """By hand: the same direction 0, at right angles 1, opposite 2."""
    ours, theirs = torch.tensor([[2.0, 0.0], [1.0, 0.0], [3.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 5.0], [-1.0, 0.0]])
    assert [float(apart(ours[row : row + 1], theirs[row : row + 1])) for row in range(3)] == pytest.approx([0, 1, 2])
    assert float(apart(ours, theirs)) == pytest.approx(1)


@pytest.mark.parametrize("tokens", [1, 2])
def test_narrow_networks_use_the_leading_columns_of_the_projector(tokens: int) -> None:
    projector = Projector(width=6, tokens=tokens, features=4, seed=0)
    weight = projector.weight.detach().numpy().reshape(4, tokens, 6)
    for width in (6, 4):
        features = torch.randn(3, tokens, width, generator=torch.Generator().manual_seed(1))
        expected = np.einsum("fte,bte->bf", weight[..., :width], features.numpy())
        np.testing.assert_allclose(projector(features.flatten(1)).detach().numpy(), expected, atol=1e-6)
        used = projector.used(width).reshape(4, tokens, 6)
        assert bool(used[..., :width].all())
        assert not bool(used[..., width:].any())
    assert torch.equal(projector.weight, Projector(6, tokens, 4, 0).weight)
    assert not torch.equal(projector.weight, Projector(6, tokens, 4, 1).weight)


# --- refusals ----------------------------------------------------------------------------------------------------


class Blind(nn.Module):
    """A network whose classifier is no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(64, 10))

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.weight


class ByPlace(nn.Module):
    """A network that classifies every place and pools afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(1, 10)

    def get_classifier(self) -> nn.Module:
        return self.head

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(images.flatten(1)[..., None]).mean(1)
        return logits


@pytest.mark.parametrize("kind", [Blind, ByPlace])
def test_networks_without_features_are_refused_as_pupils_and_as_teachers(
    kind: type[nn.Module], parts: DataParts, teacher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = torch.zeros(1, 1, 8, 8)
    assert features_shown(kind(), images) is None
    with pytest.raises(TrainingError, match=f"{kind.__name__} has no features before its classifier .* leave teacher.features"):
        pupil_of(kind(), images, 40, 0)
    monkeypatch.setattr("autoformer.training.teacher.features_shown", lambda network, images: features_shown(kind(), images))
    with pytest.raises(CheckpointError, match=r"teacher .*network has no features before its classifier; leave teacher.features"):
        Teacher(TeacherConfig(network=teacher, features=1.0), parts.preprocessing, parts.classes, torch.device("cpu"))


def test_features_are_not_kept_with_the_logits_of_views() -> None:
    with pytest.raises(
        ValueError, match=r"keeps the teacher's logits and not its features; leave teacher.features or teacher.views"
    ):
        SupernetConfig.model_validate({"teacher": {"network": "a", "features": 0.5, "views": 2}})


def test_the_setting_is_part_of_what_a_training_is_only_where_it_is_set() -> None:
    assert "features" not in TeacherConfig(network="a").model_dump()
    assert "features" not in TeacherConfig(network="a").identity
    assert TeacherConfig(network="a", features=0.5).identity["features"] == 0.5
    assert "features" not in ParentConfig().model_dump()
    assert ParentConfig(features=0.5).model_dump()["features"] == 0.5


# --- training ----------------------------------------------------------------------------------------------------


def test_the_gradient_is_that_of_the_loss_by_hand(parts: DataParts, teacher: str, tmp_path: Path) -> None:
    """Labels, the teacher's predictions and its features, each with its weight, out of plain forward passes."""
    trainer = trainer_of(parts, tmp_path, learning(teacher, clip_norm=None))
    steps, network = trainer.steps, trainer.network
    pixels, facts = next(trainer.loader(0))
    (architecture,) = steps.choose(0)
    images, labels = steps.prepare(pixels.clone(), facts, 0)
    theirs, _, _ = load_subnet(Path(teacher))
    with torch.no_grad():
        predicted, tokens = theirs(images).softmax(-1), theirs.forward_features(images)[:, 1:].mean(1)
    subnet = Subnet.from_supernet(network, architecture)  # type: ignore[arg-type]
    projector = steps.projector
    assert projector is not None
    weight = projector.weight.detach().clone().requires_grad_()
    ours = subnet.forward_features(images)[:, 1:].mean(1)
    logits = subnet.head(ours)
    known = nn.CrossEntropyLoss(label_smoothing=0.1)(logits, labels)
    told = (predicted * (predicted.log() - logits.log_softmax(-1))).sum(-1).mean()
    shown = ours @ weight[:, : ours.shape[1]].T
    cosine = (shown * tokens).sum(-1) / shown.norm(dim=-1) / tokens.norm(dim=-1)
    loss = 0.5 * known + 0.5 * told + 0.5 * (1 - cosine).mean()
    loss.backward()
    total = steps.run(steps.trained, pixels, facts, 0)
    assert float(total) == pytest.approx(float(loss.detach()), abs=1e-5)
    assert projector.weight.grad is not None
    assert weight.grad is not None
    assert torch.allclose(projector.weight.grad, weight.grad, atol=1e-6)
    whole = network.get_parameter("blocks.0.attn.proj.weight").grad
    own = subnet.get_parameter("blocks.0.attn.proj.weight").grad
    assert whole is not None
    assert own is not None
    assert torch.allclose(whole[: own.shape[0], : own.shape[1]], own, atol=1e-6)


def test_features_draw_nearer_and_without_the_setting_they_do_not(parts: DataParts, teacher: str, tmp_path: Path) -> None:
    """The distance over the train part, through the best linear map there is, found by least squares."""
    theirs, _, _ = load_subnet(Path(teacher))
    images = torch.from_numpy(parts.preprocessing.prepare(parts.train.pixels(parts.preprocessing)))
    left = {}
    for name, features in (("with", 20.0), ("without", None)):
        config = learning(
            teacher, epochs=4, warmup_epochs=0, learning_rate=0.005, init_std=0.1, augment={"rotate_degrees": 0, "translate": 0},
            teacher={"network": teacher, "features": features, "weight": 0.01},
            subnets=SubnetsConfig(strategy="preferred", preferred=(SPACE.largest.to_dict(),)),
        )  # fmt: skip
        subnet = Subnet.from_supernet(train_supernet(SPACE, parts, config, tmp_path / name), SPACE.largest).eval()
        with torch.no_grad():
            ours, shown = (one.forward_features(images)[:, 1:].mean(1).double() for one in (subnet, theirs))
            fitted = ours @ torch.linalg.lstsq(ours, shown).solution
            left[name] = float(apart(fitted, shown))
    assert left["with"] < 0.8 * left["without"]


@pytest.mark.parametrize("changes", [{}, {"ema_decay": 0.9}])
def test_what_is_written_holds_no_projector_and_a_training_that_died_ends_with_the_same_bits(
    changes: dict[str, Any], parts: DataParts, teacher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = learning(teacher, drop_path_rate=0.3, evaluate_every=1, **changes)
    train_supernet(SPACE, parts, config, tmp_path / "whole")
    with dying_at(20, monkeypatch):
        train_supernet(SPACE, parts, config, tmp_path / "s")
    held = read_tensors(tmp_path / "s" / "checkpoints" / "step-000000015.safetensors")
    assert held["projector.weight"].shape == (40, 24)
    best = read_tensors(tmp_path / "s" / "checkpoints" / "best.safetensors")
    train_supernet(SPACE, parts, config, tmp_path / "s")
    trained = read_tensors(tmp_path / "s" / "model.safetensors")
    assert trained.keys() == best.keys() == Supernet(SPACE).state_dict().keys()
    assert tensors_digest(trained) == tensors_digest(read_tensors(tmp_path / "whole" / "model.safetensors"))
    assert tensors_digest(load_supernet(tmp_path / "s").state_dict()) == tensors_digest(trained)
    without = learning(teacher, teacher={"network": teacher}, drop_path_rate=0.3, evaluate_every=1, **changes)
    train_supernet(SPACE, parts, without, tmp_path / "without")
    assert tensors_digest(trained) != tensors_digest(read_tensors(tmp_path / "without" / "model.safetensors"))


def test_a_checkpoint_without_the_projector_is_not_gone_on_from(parts: DataParts, teacher: str, tmp_path: Path) -> None:
    plain = trainer_of(parts, tmp_path, learning(teacher, teacher={"network": teacher}))
    plain.state.save()
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* can be read"):
        trainer_of(parts, tmp_path, learning(teacher)).state.load_newest()


def test_pieces_of_a_step_learn_what_the_whole_does(parts: DataParts, teacher: str, tmp_path: Path) -> None:
    """The networks are in float64, their teacher in float32; a sandwich, whose smaller networks learn from the largest alone."""
    found = []
    for name, accumulate in (("plain", 1), ("pieces", 4)):
        subnets = SubnetsConfig(strategy="sandwich", distill=True, between=1)
        config = learning(teacher, epochs=1, accumulate=accumulate, subnets=subnets)
        torch.manual_seed(0)
        found.append(train_supernet(SPACE, parts, config, tmp_path / name, start=Supernet(SPACE).double()).state_dict())
    assert all(torch.allclose(weight, found[1][name], rtol=0, atol=1e-5) for name, weight in found[0].items())


def test_columns_that_no_network_of_a_step_uses_are_frozen_with_the_rest(parts: DataParts, teacher: str, tmp_path: Path) -> None:
    subnets = SubnetsConfig(strategy="preferred", preferred=(SPACE.largest.to_dict(),), freeze_unused=True)
    trainer = trainer_of(parts, tmp_path, learning(teacher, subnets=subnets, warmup_epochs=0.0))
    pixels, facts = next(trainer.loader(0))
    trainer.steps.run(trainer.steps.trained, pixels, facts, 0)
    projector = trainer.steps.projector
    assert projector is not None
    before = projector.weight.detach().clone()
    trainer.steps.choose = lambda step: (SPACE.smallest,)
    trainer.steps.run(trainer.steps.trained, pixels, facts, 1)
    assert torch.equal(projector.weight[:, 16:], before[:, 16:])
    assert bool((projector.weight[:, :16] != before[:, :16]).any(0).all())


def test_networks_of_timm_learn_and_are_written_without_it(parts: DataParts, teacher: str, tmp_path: Path) -> None:
    network, own, _ = classifier_from("timm:test_resnet@scratch", parts)
    values = {"epochs": 1, "batch_size": 256, "layer_decay": 0.8, "teacher": {"network": teacher, "features": 0.5}}
    trained = finetune(network, own, FinetuneConfig.model_validate(values), tmp_path / "f")
    assert read_tensors(tmp_path / "f" / "model.safetensors").keys() == trained.state_dict().keys()
    assert json.loads((tmp_path / "f" / "network.json").read_text())["train"]["teacher"]["features"] == 0.5
    compiled = FinetuneConfig.model_validate({**values, "compile": True})
    with pytest.raises(TrainingError, match="not taken from a compiled network of timm; set compile=false"):
        Trainer(network.network, own, compiled, tmp_path, only_one, {"network": None}, own.preprocessing)
