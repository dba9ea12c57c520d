"""What a step trains: networks by strategy, images by key, and what happens to the rest of the weights."""

from __future__ import annotations

import errno
import json
import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from timm.optim import list_optimizers
from torch import Tensor, nn

from autoformer.architecture import Architecture
from autoformer.batches import Plan, mirrored_piece
from autoformer.checkpoint import read_tensors, tensors_digest, write_tensors
from autoformer.cost import count_params
from autoformer.data import DataConfig, DataParts, load_parts
from autoformer.errors import ArchitectureError, AutoformerError, DataError, InterruptedRunError, TrainingError
from autoformer.evaluate import EvaluationSet, guesses, predict_with, score
from autoformer.sampling import chooser, frozen_outside, only_one, parameter_strata, used_weights
from autoformer.space import SearchSpace
from autoformer.subnet import Subnet
from autoformer.subnet_folder import load_subnet, save_subnet
from autoformer.supernet import Supernet
from autoformer.supernet_folder import load_supernet
from autoformer.teacher import imitation
from autoformer.train import finetune, train_supernet
from autoformer.train_step import TrainStep
from autoformer.trainer import Trainer
from autoformer.training_config import FinetuneConfig, SubnetsConfig, SupernetConfig
from tests.small_spaces import NAMES, shrunk

SPACE = SearchSpace(
    name="small digits", embed_dims=(16, 24), depths=(1, 2), num_heads=(1, 2), mlp_ratios=(1.0, 2.0), head_dim=8,
    image_sizes=(8,), patch_size=4, in_chans=1, num_classes=10, max_relative_position=3,
)  # fmt: skip
QUICK = SupernetConfig(epochs=2, batch_size=64, evaluate_every=2)


@pytest.fixture(scope="module")
def parts() -> DataParts:
    return load_parts(DataConfig())


def trainer_of(parts: DataParts, folder: Path, config: SupernetConfig = QUICK, network: Supernet | None = None) -> Trainer:
    torch.manual_seed(0)
    network = network or Supernet(SPACE)
    choose = chooser(config.subnets, SPACE, 0)
    return Trainer(network, parts, config, folder, choose, dict(SPACE.anchors), parts.preprocessing)


def weights_of(folder: Path) -> str:
    return tensors_digest(read_tensors(folder / "model.safetensors"))


# --- which networks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["uniform", "sandwich", "stratified"])
def test_the_networks_of_a_step_depend_on_seed_and_step_alone(strategy: str) -> None:
    config = SubnetsConfig.model_validate({"strategy": strategy})
    choose, again, other = chooser(config, SPACE, 3), chooser(config, SPACE, 3), chooser(config, SPACE, 4)
    drawn = [choose(step) for step in range(100)]
    assert drawn == [again(step) for step in reversed(range(100))][::-1]
    assert drawn != [other(step) for step in range(100)]


def test_uniform_sampling_reaches_every_network_of_the_space() -> None:
    choose = chooser(SubnetsConfig(), SPACE, 0)
    assert len({choose(step) for step in range(2000)}) == SPACE.size


def test_a_sandwich_holds_the_largest_the_smallest_and_some_between() -> None:
    choose = chooser(SubnetsConfig(strategy="sandwich", between=3), SPACE, 0)
    for step in range(20):
        networks = choose(step)
        assert networks[:2] == (SPACE.largest, SPACE.smallest)
        assert len(networks) == 5


def test_stratified_sampling_trains_the_edges_that_uniform_sampling_starves() -> None:
    """Eight ranges of parameters of the paper's space T: each gets an eighth, while uniform sampling neglects the outer ones."""
    space = SearchSpace.preset("tiny")
    limits = [(budget.min_params or 0, budget.max_params or 0) for budget in parameter_strata(space, 8)]
    assert len(limits) == 8

    def shares(strategy: str) -> list[float]:
        choose, found = chooser(SubnetsConfig.model_validate({"strategy": strategy}), space, 0), Counter[int]()
        for step in range(800):
            (architecture,) = choose(step)
            assert architecture is not None
            params = count_params(architecture, space)
            found[next(index for index, (_, most) in enumerate(limits) if params <= most)] += 1
        return [found[index] / 800 for index in range(8)]

    assert all(share == pytest.approx(1 / 8, abs=4 * (1 / 8 * 7 / 8 / 800) ** 0.5) for share in shares("stratified"))
    uniform = shares("uniform")
    assert min(uniform[0], uniform[-1]) < 1 / 40


def test_strata_that_hold_no_network_are_left_out() -> None:
    one = SearchSpace.from_dict(
        {**SPACE.to_dict(), "embed_dims": [16], "depths": [1], "num_heads": [1], "mlp_ratios": [1.0, 2.0]}
    )
    assert len(parameter_strata(one, 8)) == 2
    alone = SearchSpace.from_dict({**one.to_dict(), "mlp_ratios": [1.0]})
    with pytest.raises(ArchitectureError, match="too alike"):
        parameter_strata(alone, 8)


def test_preferred_networks_are_the_only_ones_trained_and_must_be_of_the_space() -> None:
    listed = (SPACE.middle.to_dict(), SPACE.smallest.to_dict())
    choose = chooser(SubnetsConfig(strategy="preferred", preferred=listed), SPACE, 0)
    assert {choose(step) for step in range(50)} == {(SPACE.middle,), (SPACE.smallest,)}
    with pytest.raises(ArchitectureError, match="not in space"):
        chooser(SubnetsConfig(strategy="preferred", preferred=("AutoFormer-T",)), SPACE, 0)
    tiny = SearchSpace.preset("tiny")
    assert tiny.contains(*chooser(SubnetsConfig(strategy="preferred", preferred=("AutoFormer-T",)), tiny, 0)(0))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"distill": True}, "needs the largest network"),
        ({"strategy": "preferred"}, "belong together"),
        ({"preferred": ["AutoFormer-T"]}, "belong together"),
        ({"strategy": "preferred", "preferred": ["AutoFormer-X"]}, "known are AutoFormer-T"),
    ],
)
def test_settings_without_effect_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SubnetsConfig.model_validate(values)


# --- weights outside the networks of a step ----------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_masks_of_used_weights_are_where_the_gradients_of_a_network_are(name: str) -> None:
    """Independent: the gradient of the network's own logits, which is zero at unused numbers and almost nowhere else."""
    space = shrunk(name)
    torch.manual_seed(0)
    supernet = Supernet(space).double()
    for architecture in (space.smallest, space.middle):
        used = used_weights(supernet, [architecture])
        size = space.image_size_of(architecture)
        images = torch.randn(4, space.in_chans, size, size, dtype=torch.float64)
        supernet.zero_grad()
        supernet(images, architecture).pow(2).sum().backward()
        for label, weight in supernet.named_parameters():
            mask = used.get(weight)
            assert (mask is None) == (weight.grad is None), label
            if mask is not None and weight.grad is not None:
                assert not bool((weight.grad != 0)[~mask].any()), label
                if "qkv.bias" in label:  # softmax does not see the key's bias: its true gradient is zero
                    continue
                if "rows" not in label and "columns" not in label and "pos_embed" not in label:
                    assert bool(mask.sum() == (weight.grad != 0).sum()), label


def test_unused_weights_move_by_momentum_and_decay_unless_frozen(parts: DataParts, tmp_path: Path) -> None:
    def steps(freeze: bool) -> tuple[Tensor, Tensor]:
        subnets = SubnetsConfig(strategy="preferred", preferred=(SPACE.largest.to_dict(),), freeze_unused=freeze)
        config = QUICK.model_copy(update={"subnets": subnets, "warmup_epochs": 0.0})
        trainer = trainer_of(parts, tmp_path, config)
        pixels, facts = next(trainer._loader(0))
        trainer.steps.run(trainer.network, pixels, facts, 0)  # the largest network gives every weight a momentum
        assert isinstance(trainer.network, Supernet)
        unused = ~used_weights(trainer.network, [SPACE.smallest])[trainer.network.head.weight]
        before = trainer.network.head.weight[unused].detach().clone()
        trainer.steps.choose = lambda step: (SPACE.smallest,)
        trainer.steps.run(trainer.network, pixels, facts, 1)
        return before, trainer.network.head.weight[unused].detach()

    before, after = steps(freeze=False)
    assert bool((before != after).all())
    before, after = steps(freeze=True)
    assert torch.equal(before, after)


def test_freezing_keeps_the_moments_too() -> None:
    weight = nn.Parameter(torch.ones(4))
    optimizer = torch.optim.AdamW([weight], lr=0.1)
    weight.grad = torch.ones(4)
    optimizer.step()
    kept = {name: value.clone() for name, value in optimizer.state[weight].items()}
    mask = torch.tensor([True, True, False, False])
    weight.grad = torch.tensor([1.0, 2.0, 0.0, 0.0])
    with frozen_outside({weight: mask}, optimizer):
        optimizer.step()
    for name in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(optimizer.state[weight][name][2:], kept[name][2:])
        assert not torch.equal(optimizer.state[weight][name][1], kept[name][1])


# --- learning from networks --------------------------------------------------------------------------------------


def test_imitation_is_the_divergence_from_the_teacher() -> None:
    """By hand: softmax of (ln 3, 0) is (3/4, 1/4), of (0, 0) is (1/2, 1/2)."""
    ours, theirs = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[np.log(3.0), 0.0]])
    expected = 0.75 * np.log(0.75 / 0.5) + 0.25 * np.log(0.25 / 0.5)
    assert float(imitation(ours, theirs.double())) == pytest.approx(expected, abs=1e-6)
    assert float(imitation(theirs.double(), theirs.double())) == pytest.approx(0, abs=1e-7)
    assert float(imitation(ours, theirs, hard=True)) == pytest.approx(np.log(2))
    warm = np.sqrt(3) / (1 + np.sqrt(3))
    divergence = warm * np.log(warm / 0.5) + (1 - warm) * np.log((1 - warm) / 0.5)
    assert float(imitation(ours, theirs.double(), temperature=2.0)) == pytest.approx(4 * divergence, abs=1e-6)


def test_in_place_distillation_teaches_all_but_the_largest(parts: DataParts, tmp_path: Path) -> None:
    """The largest sees labels; with labels shuffled for the others nothing changes for them, so they cannot have seen any."""
    config = QUICK.model_copy(update={"subnets": SubnetsConfig(strategy="sandwich", distill=True)})
    seen: list[bool] = []
    trainer = trainer_of(parts, tmp_path, config)
    loss = trainer.steps.loss

    def spy(logits: Tensor, targets: Tensor, taught: Tensor | None, largest: Tensor | None) -> Tensor:
        seen.append(largest is not None)
        assert largest is None or not largest.requires_grad
        return loss(logits, targets, taught, largest)

    trainer.steps.loss = spy  # type: ignore[method-assign]
    trainer.steps.run(trainer.network, *next(trainer._loader(0)), 0)
    assert seen == [False, True, True, True]


# --- which images ------------------------------------------------------------------------------------------------


def test_an_epoch_takes_every_image_once_and_leaves_the_last_smaller_batch_out() -> None:
    plan = Plan(images=103, batch_size=10, epochs=2, repeats=1, seed=5)
    taken = [position for step in range(10) for position, _ in plan.batch(step)]
    assert plan.steps_per_epoch == 10
    assert len(set(taken)) == len(taken) == 100
    assert taken != [position for step in range(10, 20) for position, _ in plan.batch(step)]


def test_repeated_augmentation_takes_a_third_of_the_images_three_times_with_other_seeds() -> None:
    plan = Plan(images=90, batch_size=30, epochs=1, repeats=3, seed=5)
    taken = [key for step in range(3) for key in plan.batch(step)]
    times = Counter(position for position, _ in taken)
    assert (len(times), set(times.values())) == (30, {3})
    assert len(set(taken)) == 90


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6])
def test_pieces_of_a_batch_share_it_out_and_hold_mirrored_pairs_together(count: int) -> None:
    batch = [(position, 0) for position in range(24)]
    pieces = [mirrored_piece(batch, index, count) for index in range(count)]
    assert sorted(key for piece in pieces for key in piece) == batch
    for piece in pieces:
        assert [23 - position for position, _ in piece] == [position for position, _ in reversed(piece)]


def test_a_batch_that_cannot_be_shared_equally_is_refused() -> None:
    with pytest.raises(DataError, match="cannot be shared by 5 equal pieces"):
        mirrored_piece([(0, 0)] * 24, 0, 5)


def test_a_batch_larger_than_the_set_is_refused(parts: DataParts, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"batch_size 5000 is larger than the train part of 989 images; set it to 494 or less"):
        train_supernet(SPACE, parts, QUICK.model_copy(update={"batch_size": 5000}), tmp_path / "s")


@pytest.mark.parametrize("changes", [{"accumulate": 4}, {"checkpoint_activations": True}, {"accumulate": 2, "mixup": 0.8}])
def test_saving_memory_does_not_change_what_is_learned(parts: DataParts, tmp_path: Path, changes: dict[str, Any]) -> None:
    """float64, so that only rounding could differ: 1e-12."""
    plain = {"mixup": changes.get("mixup", 0.0), "epochs": 1, "batch_size": 64, "augment": {"erase": 0.5}}
    found = []
    for name, values in (("plain", plain), ("saving", {**plain, **changes})):
        torch.manual_seed(0)
        config = SupernetConfig.model_validate(values)
        found.append(train_supernet(SPACE, parts, config, tmp_path / name, start=Supernet(SPACE).double()).state_dict())
    for name, weight in found[0].items():
        assert torch.allclose(weight, found[1][name], rtol=0, atol=1e-10), name


# --- survival ----------------------------------------------------------------------------------------------------


def test_gradients_that_are_not_finite_move_nothing(parts: DataParts, tmp_path: Path) -> None:
    trainer = trainer_of(parts, tmp_path)
    pixels, facts = next(trainer._loader(0))
    trainer.steps.run(trainer.network, pixels, facts, 0)
    before = tensors_digest(trainer.network.state_dict())
    loss = trainer.steps.loss
    trainer.steps.loss = lambda *words: loss(*words) * float("nan")  # type: ignore[method-assign]
    trainer.steps.run(trainer.network, pixels, facts, 1)
    assert tensors_digest(trainer.network.state_dict()) == before
    trainer.steps.loss = loss  # type: ignore[method-assign]
    trainer.steps.run(trainer.network, pixels, facts, 2)
    assert tensors_digest(trainer.network.state_dict()) != before
    assert float(trainer.steps.nonfinite_in_a_row) == 0


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_training_without_finite_gradients_stops_and_leaves_its_images_and_networks(
    parts: DataParts, tmp_path: Path, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = TrainStep.loss
    monkeypatch.setattr(TrainStep, "loss", lambda self, *words: loss(self, *words) * float("inf"))
    config = QUICK.model_copy(update={"max_nonfinite": 4, "optimizer": optimizer})
    with pytest.raises(TrainingError, match=r"4 steps in a row .* the last of them step 4") as caught:
        train_supernet(SPACE, parts, config, tmp_path / "s")
    assert "lower learning_rate" in str(caught.value)
    told = json.loads((tmp_path / "s" / "nonfinite-step-000000003.json").read_text())
    assert Architecture.from_dict(told["networks"][0]) == chooser(SubnetsConfig(), SPACE, 0)(3)[0]
    saved = read_tensors(tmp_path / "s" / "nonfinite-step-000000003.safetensors")
    assert saved["pixels"].shape == (64, 1, 8, 8)


def interrupted(
    kind: signal.Signals, at: int, monkeypatch: pytest.MonkeyPatch, work: Callable[[], object]
) -> InterruptedRunError:
    steps = TrainStep.run

    def step_then_signal(self: TrainStep, forward: nn.Module, pixels: Tensor, facts: Tensor, step: int) -> Tensor:
        loss = steps(self, forward, pixels, facts, step)
        if step == at:
            os.kill(os.getpid(), kind)
        return loss

    with monkeypatch.context() as patch, pytest.raises(InterruptedRunError, match="run the same command again") as caught:  # noqa: PT012
        patch.setattr(TrainStep, "run", step_then_signal)
        work()
    return caught.value


@pytest.mark.parametrize(("kind", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_step_saves_and_resumes_within_the_epoch(
    parts: DataParts, tmp_path: Path, kind: signal.Signals, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = QUICK.model_copy(update={"ema_decay": 0.9, "log_every": 4})
    train_supernet(SPACE, parts, config, tmp_path / "whole")
    error = interrupted(kind, 20, monkeypatch, lambda: train_supernet(SPACE, parts, config, tmp_path / "s"))
    assert error.exit_code == code
    assert (tmp_path / "s" / "checkpoints" / "step-000000021.safetensors").exists()
    train_supernet(SPACE, parts, config, tmp_path / "s")
    assert weights_of(tmp_path / "whole") == weights_of(tmp_path / "s")
    logs = [
        [
            (line["event"], line["step"], line["loss"])
            for line in map(json.loads, (tmp_path / name / "log.jsonl").read_text().splitlines())
        ]
        for name in ("whole", "s")
    ]
    assert logs[0] == logs[1]
    assert [step for _, step, _ in logs[0]] == [4, 8, 12, 15, 16, 20, 24, 28, 30]


def test_a_full_disk_is_one_line_and_leaves_the_checkpoint_before(
    parts: DataParts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = write_tensors

    def full(tensors: Any, path: Path, metadata: Any = None) -> None:
        if "step-000000030" in path.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(tensors, path, metadata)

    with monkeypatch.context() as patch:
        patch.setattr("autoformer.training_state.write_tensors", full)
        with pytest.raises(TrainingError, match=r"step-000000030\.safetensors cannot be written \(No space left on device\)"):
            train_supernet(SPACE, parts, QUICK, tmp_path / "s")
    assert (tmp_path / "s" / "checkpoints" / "step-000000015.safetensors").exists()
    train_supernet(SPACE, parts, QUICK, tmp_path / "s")
    train_supernet(SPACE, parts, QUICK, tmp_path / "whole")
    assert weights_of(tmp_path / "whole") == weights_of(tmp_path / "s")


# --- finetuning --------------------------------------------------------------------------------------------------


def test_a_finetuning_stops_when_its_score_no_longer_rises_and_keeps_the_best(parts: DataParts, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = FinetuneConfig(epochs=40, batch_size=64, evaluate_every=1, patience=3, learning_rate=0.02, warmup_epochs=0)
    finetune(Subnet.from_space(SPACE, SPACE.smallest), parts, config, tmp_path / "f")
    record = json.loads((tmp_path / "f" / "subnet.json").read_text())
    scores = [entry["scores"]["network"]["value"] for entry in record["history"]]
    best = int(np.argmax(scores)) + 1
    assert record["best"] == {"epoch": best, "score": max(scores)}
    assert len(scores) == best + 3 < 40
    subnet, preprocessing, _ = load_subnet(tmp_path / "f")
    search = EvaluationSet.of(parts.search, preprocessing)
    assert score(guesses(predict_with(subnet), search), search.labels).value == max(scores)


def test_folding_trains_on_the_search_part_too_and_says_so(parts: DataParts, tmp_path: Path) -> None:
    config = FinetuneConfig(epochs=1, batch_size=64, fold_search=True)
    finetune(Subnet.from_space(SPACE, SPACE.smallest), parts, config, tmp_path / "f")
    record = json.loads((tmp_path / "f" / "subnet.json").read_text())
    assert record["folded"] is True
    assert record["history"][0]["step"] == (len(parts.train) + len(parts.search)) // 64
    assert "scores" not in record["history"][0]
    with pytest.raises(ValueError, match="choose one"):
        FinetuneConfig(fold_search=True, patience=3)


def test_layer_wise_decay_slows_the_first_layers(parts: DataParts, tmp_path: Path) -> None:
    """Two blocks: the head learns at the full rate, each layer below it at 0.5 times the rate of the one above."""
    config = FinetuneConfig(epochs=1, batch_size=64, layer_decay=0.5, learning_rate=1.0, warmup_epochs=0)
    network = Subnet.from_space(SPACE, SPACE.largest)
    trainer = Trainer(network, parts, config, tmp_path, only_one, {"network": None}, parts.preprocessing)
    trainer.steps.set_rate(0)
    rates = {id(weight): group["lr"] for group in trainer.steps.optimizer.param_groups for weight in group["params"]}
    found = [
        rates[id(network.get_parameter(name))]
        for name in ("head.weight", "blocks.1.mlp.fc1.weight", "blocks.0.mlp.fc1.weight", "cls_token")
    ]
    assert found == pytest.approx([1.0, 0.5, 0.25, 0.125])


def test_the_moving_average_is_what_a_training_ends_with_and_what_is_scored(parts: DataParts, tmp_path: Path) -> None:
    """timm's warm-up of the decay: 1 - (1 + step)^(-2/3) after the first step, at most the decay asked for."""
    config = QUICK.model_copy(update={"epochs": 1, "batch_size": 400, "ema_decay": 0.999, "warmup_epochs": 0.0})
    trainer = trainer_of(parts, tmp_path / "hand", config)
    expected: dict[str, Tensor] = {}
    for step, (pixels, facts) in enumerate(trainer._loader(0)):
        trainer.steps.run(trainer.network, pixels, facts, step)
        decay = 0.0 if step == 0 else 1 - (1 + step) ** (-2 / 3)
        for name, weight in trainer.network.state_dict().items():
            expected[name] = weight.clone() if not step else decay * expected[name] + (1 - decay) * weight
    trained = trainer_of(parts, tmp_path / "run", config).run()
    for name, weight in trained.network.state_dict().items():
        assert torch.allclose(weight, expected[name], atol=1e-6), name
    search = EvaluationSet.of(parts.search, parts.preprocessing)
    found = score(guesses(predict_with(trained.network, SPACE.largest), search), search.labels).value
    assert trained.history[-1]["scores"]["largest"]["value"] == found


def test_a_supernet_starts_from_the_weights_it_is_given(parts: DataParts, tmp_path: Path) -> None:
    torch.manual_seed(9)
    start = Supernet(SPACE)
    config = QUICK.model_copy(update={"epochs": 1, "learning_rate": 1e-9, "min_learning_rate": 0.0, "warmup_learning_rate": 0.0})
    kept = {name: weight.clone() for name, weight in start.state_dict().items()}
    train_supernet(SPACE, parts, config, tmp_path / "s", start=start)
    for name, weight in load_supernet(tmp_path / "s").state_dict().items():
        assert torch.allclose(weight, kept[name], atol=1e-5), name


def test_a_finetuning_with_patience_is_scored_every_epoch(parts: DataParts, tmp_path: Path) -> None:
    """Or it would stop for want of scores: scored every 10 epochs, with a patience of 2."""
    config = FinetuneConfig(epochs=6, batch_size=64, evaluate_every=10, patience=2, learning_rate=1e-3)
    finetune(Subnet.from_space(SPACE, SPACE.largest), parts, config, tmp_path / "f")
    history = json.loads((tmp_path / "f" / "subnet.json").read_text())["history"]
    assert all("scores" in record for record in history)
    assert len(history) > 3


def test_a_damaged_best_checkpoint_costs_the_best_weights_and_no_more(parts: DataParts, tmp_path: Path) -> None:
    config = FinetuneConfig(epochs=3, batch_size=64, patience=3, learning_rate=0.02)
    torch.manual_seed(0)
    network = Subnet.from_space(SPACE, SPACE.smallest)
    trainer = Trainer(network, parts, config, tmp_path, only_one, {"network": None}, parts.preprocessing)
    trainer.run()
    path = tmp_path / "checkpoints" / "best.safetensors"
    path.write_bytes(path.read_bytes()[:200])
    again = Trainer(network, parts, config, tmp_path, only_one, {"network": None}, parts.preprocessing)
    with pytest.warns(UserWarning, match="the last weights are kept instead of the best"):
        again.run()
    assert again.state.best is None


def test_skipped_steps_are_counted_and_leave_the_loss_of_the_others(parts: DataParts, tmp_path: Path) -> None:
    """Every third step without a finite loss: the mean is that of the others, and the log holds no NaN."""
    trainer = trainer_of(parts, tmp_path, QUICK.model_copy(update={"epochs": 1}))
    loss, losses = trainer.steps.loss, list[float]()

    def poisoned(*words: Any) -> Tensor:
        found = loss(*words)
        if len(losses) % 3 == 2:
            losses.append(float("nan"))
            return found * float("nan")
        losses.append(float(found.detach()))
        return found

    trainer.steps.loss = poisoned  # type: ignore[assignment, method-assign]
    (record,) = trainer.run().history
    assert record["skipped"] == 5
    assert record["loss"] == pytest.approx(np.nanmean(losses))
    assert "NaN" not in (tmp_path / "log.jsonl").read_text()


def test_progress_is_told_in_steps_with_loss_and_rate(parts: DataParts, tmp_path: Path) -> None:
    told: list[tuple[int, int, str]] = []
    config = QUICK.model_copy(update={"log_every": 5})
    train_supernet(
        SPACE, parts, config, tmp_path / "s", progress=lambda work, done, total, note="": told.append((done, total, note))
    )
    assert [(done, total) for done, total, _ in told] == [(step, 30) for step in (5, 10, 15, 20, 25, 30)]
    assert all(word in told[0][2] for word in ("epoch 1", "loss", "rate", "images/s"))


def test_a_better_epoch_than_the_last_stays_beside_the_supernet(parts: DataParts, tmp_path: Path) -> None:
    config = SupernetConfig(epochs=6, batch_size=64, evaluate_every=1, learning_rate=0.03, warmup_epochs=0, init_std=0.1)
    train_supernet(SPACE, parts, config, tmp_path / "s")
    record = json.loads((tmp_path / "s" / "supernet.json").read_text())
    means = [np.mean([entry["value"] for entry in epoch["scores"].values()]) for epoch in record["history"]]
    assert record["best"] == {"epoch": int(np.argmax(means)) + 1, "score": pytest.approx(max(means))}
    assert (tmp_path / "s" / "best.safetensors").exists() == (np.argmax(means) != 5)


def resumed_equals_undisturbed(optimizer: str, parts: DataParts, folder: Path) -> None:
    """Three steps, a checkpoint, three more from it, against six in a row."""
    config = SupernetConfig(epochs=1, batch_size=64, optimizer=optimizer, learning_rate=1e-3, warmup_epochs=0)

    def steps(trainer: Trainer, first: int, last: int) -> None:
        loader = trainer._loader(first)
        for step in range(first, last):
            trainer.steps.run(trainer.network, *next(loader), step)
        trainer.state.step = last

    whole = trainer_of(parts, folder / "a", config)
    steps(whole, 0, 6)
    half = trainer_of(parts, folder / "b", config)
    steps(half, 0, 3)
    half.state.save()
    rest = trainer_of(parts, folder / "b", config)
    rest.state.load_newest()
    assert rest.state.step == 3
    steps(rest, 3, 6)
    for name, weight in whole.network.state_dict().items():
        assert torch.equal(weight, rest.network.state_dict()[name]), (optimizer, name)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lamb", "lion", "adan", "adafactor", "laprop"])
def test_an_optimiser_goes_on_as_if_nothing_had_happened(optimizer: str, parts: DataParts, tmp_path: Path) -> None:
    resumed_equals_undisturbed(optimizer, parts, tmp_path)


@pytest.mark.slow
def test_every_optimiser_goes_on_as_if_nothing_had_happened_or_is_refused_at_once(parts: DataParts, tmp_path: Path) -> None:
    works, refused, wrong = [], [], []
    for optimizer in list_optimizers():
        if optimizer.startswith("kron"):  # compiles for minutes
            continue
        try:
            resumed_equals_undisturbed(optimizer, parts, tmp_path / optimizer)
            works.append(optimizer)
        except TrainingError:
            refused.append(optimizer)
        except (AssertionError, AutoformerError) as error:
            wrong.append(f"{optimizer}: {str(error)[:100]}")
    assert not wrong, "\n".join(wrong)
    assert len(works) > 60, f"refused: {refused}"


def test_a_teacher_of_other_classes_is_refused(parts: DataParts, tmp_path: Path) -> None:
    subnet = Subnet.from_space(SPACE, SPACE.largest)
    names = tuple(f"not {name}" for name in parts.classes)
    save_subnet(subnet, tmp_path / "network", preprocessing=parts.preprocessing, classes=names, record={})
    config = SupernetConfig.model_validate({**QUICK.model_dump(), "teacher": {"network": str(tmp_path / "network")}})
    with pytest.raises(DataError, match="knows class 'not 0'"):
        train_supernet(SPACE, parts, config, tmp_path / "s")
