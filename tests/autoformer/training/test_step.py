"""What a step trains: networks by strategy, images by key, and what happens to the rest of the weights."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoformer.cost import count_params
from autoformer.data.parts import DataParts
from autoformer.errors import ArchitectureError, DataError
from autoformer.networks.supernet import Supernet
from autoformer.space import SearchSpace
from autoformer.training.batches import Plan, mirrored_piece
from autoformer.training.choosing import chooser, frozen_outside, parameter_strata, used_weights
from autoformer.training.config import SubnetsConfig, SupernetConfig
from autoformer.training.runs import train_supernet
from autoformer.training.teacher import imitation
from tests.support.small_spaces import NAMES, shrunk
from tests.support.trainings import QUICK, SPACE, trainer_of

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
        pixels, facts = next(trainer.loader(0))
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
    trainer.steps.run(trainer.network, *next(trainer.loader(0)), 0)
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
