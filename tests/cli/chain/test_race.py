"""Races of real networks: small ones on the digits, timed by a pretended measurement."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

from autoformer.cli.chain import legs
from autoformer.cli.chain import race as chain
from autoformer.cli.chain.chain import run_recipe
from autoformer.cli.chain.entrants import SPARE, Networks, Selection, parent_of
from autoformer.cli.chain.race import deliver, plan_lines
from autoformer.cli.chain.recipe import parse_recipe
from autoformer.cost import Budget
from autoformer.errors import BudgetError, CheckpointError, OutputExistsError, RecipeError, TrainingError
from autoformer.files import read_json, write_json
from autoformer.networks.folders import record_of_network, save_subnet
from autoformer.networks.subnet import Subnet
from autoformer.profiling.race.config import RaceConfig
from autoformer.profiling.race.record import RaceRecord
from autoformer.profiling.race.schedule import Rung, Schedule
from autoformer.search.record import SearchRecord
from autoformer.training.config import FinetuneConfig
from autoformer.training.runs import finetune
from autoformer.training.teacher import Teacher
from autoformer.training.trainer import Surroundings
from tests.support.race_folders import FINETUNE, RIVAL, Pretended, Untimed, field_of, question, ran
from tests.support.trainings import SPACE

PAIR = RaceConfig(finalists=2, homogeneous=0, rivals=(), learning_rates=(1.0,), cost=2)

EVERYBODY = {"finalist-1", "finalist-2", "most-expensive", "homogeneous-1", "test-resnet"}  # of `question`; four can start


def no_training(*arguments: object, **options: object) -> nn.Module:
    pytest.fail("something was trained")


# --- a whole race --------------------------------------------------------------------------------------------------------


def test_a_race_has_entrants_of_every_kind_and_follows_its_schedule(finished_race: Path) -> None:
    record = RaceRecord.load(finished_race)
    assert {one.entrant.kind for one in record.entrants} == {"finalist", "most expensive", "homogeneous", "rival"}
    assert {one.entrant.name for one in record.entrants if one.entrant.fresh} == {"test-resnet"}
    assert record.schedule == Schedule((Rung(4, 1), Rung(2, 4)), 4, (1.0, 4.0))
    trained = {one.entrant.name: sorted((part.epochs, part.rate) for part in one.trained) for one in record.entrants}
    assert all(parts[:2] == [(1, 1.0), (1, 4.0)] for parts in trained.values())
    assert sorted(len(parts) for parts in trained.values()) == [2, 2, 3, 3]
    assert record.extra_epochs <= record.schedule.most_extra_epochs
    assert "test-resnet" in {one.entrant.name for one in record.entrants if len(one.trained) == 3}  # alone of its kind
    assert record.agreement is not None
    assert record.agreement.networks == 3
    assert [(one.name, one.reason) for one in record.refused] == [
        ("finalist-2", "keeps the limits, a spare: no more than 4 start")
    ]


def test_a_winner_is_scored_on_the_held_out_images_of_the_search(finished_race: Path, searched: Path) -> None:
    record, search = RaceRecord.load(finished_race), read_json(searched / "search" / "search.json")["result"]
    assert record.labels == search["labels"]
    assert record.held_out_images == search["confirmation_images"] > 0
    assert record.delivered.held_out is not None
    assert record.delivered.held_out.images == record.held_out_images


def test_a_rival_takes_the_smallest_size_its_stride_allows_and_says_so(finished_race: Path) -> None:
    rival = RaceRecord.load(finished_race)["test-resnet"].entrant
    assert (rival.network, rival.image_size, rival.note) == (RIVAL, 32, "at 32 px, the search's networks take 8 px")


def test_a_finished_race_keeps_the_networks_and_neither_checkpoints_nor_graphs(finished_race: Path) -> None:
    assert not list(finished_race.rglob("checkpoints"))
    assert {path.name for path in (finished_race / "measuring").iterdir()} <= {".lock"}
    record = RaceRecord.load(finished_race)
    last = finished_race / "entrants" / record.winner / f"x{record.delivered.rate:g}"
    assert (last / "after-4.json").exists()
    assert (last / "network" / "model.safetensors").exists()


def test_a_finished_race_is_read_and_not_run_again(finished_race: Path, searched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(legs, "finetune", no_training)
    record = RaceRecord.load(finished_race)
    (left := finished_race / "entrants" / record.winner / "x1" / "network" / "checkpoints").mkdir()  # by one that was killed
    assert ran(question(searched), finished_race) == record
    assert not left.exists()


def test_the_winner_is_delivered_whole_and_once(finished_race: Path, tmp_path: Path) -> None:
    record = RaceRecord.load(finished_race)
    deliver(record, finished_race, tmp_path / "winner")
    last = finished_race / "entrants" / record.winner / f"x{record.delivered.rate:g}" / "network"
    assert (tmp_path / "winner" / "model.safetensors").read_bytes() == (last / "model.safetensors").read_bytes()
    assert not {".lock", "log.jsonl", "checkpoints"} & {path.name for path in (tmp_path / "winner").iterdir()}
    (tmp_path / "winner" / "model.safetensors").write_text("mine")
    deliver(record, finished_race, tmp_path / "winner")
    assert (tmp_path / "winner" / "model.safetensors").read_text() == "mine"


def test_a_delivered_rival_says_what_it_is(finished_race: Path, tmp_path: Path) -> None:
    record = RaceRecord.load(finished_race)
    rival = next(one for one in record.entrants if one.entrant.kind == "rival" and one.last and one.last.epochs == 4)
    deliver(replace(record, winner=rival.entrant.name, runner_up=None), finished_race, tmp_path / "winner")
    assert (record_of_network(tmp_path / "winner") or {})["made_by"] == "finetune"


def test_entrants_that_see_the_same_images_share_what_their_teacher_says(
    searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three networks of the space at 8 px and a rival at 32 px, first with two rates each: two views twice, not eight times."""
    images, answer = list[int](), Teacher.__call__

    def counted(self: Teacher, pixels: Tensor) -> Tensor:
        images.append(len(pixels))
        return answer(self, pixels)

    monkeypatch.setattr(Teacher, "__call__", counted)
    Pretended().install(monkeypatch)
    parts = question(searched).parts
    network = Subnet.from_space(SPACE, SPACE.largest)
    save_subnet(network, tmp_path / "teacher", preprocessing=parts.preprocessing, classes=parts.classes, record={})
    teacher = {"network": str(tmp_path / "teacher"), "views": 2}
    config = FinetuneConfig.model_validate({**FINETUNE.model_dump(), "teacher": teacher})
    record = ran(question(searched, finetune=config), tmp_path / "race")
    assert len(record.entrants) == 4
    assert sum(images) == 2 * 2 * len(parts.train)
    assert not list((tmp_path / "race").rglob("logits"))


# --- going on ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", ["race.json", "entrants/WINNER", "entrants/WINNER/xRATE/after-4.json"])
def test_what_is_missing_is_done_again_and_gives_the_same_race(
    finished_race: Path, searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    Pretended().install(monkeypatch)
    out, record = tmp_path / "race", RaceRecord.load(finished_race)
    shutil.copytree(finished_race, out)
    (out / "race.json").unlink()
    path = out / lost.replace("WINNER", record.winner).replace("RATE", f"{record.delivered.rate:g}")
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    ran(question(searched), out)
    assert Untimed.of(out) == Untimed.of(finished_race)


def test_a_damaged_part_is_named_with_what_to_do(finished_race: Path, searched: Path, tmp_path: Path) -> None:
    out, record = tmp_path / "race", RaceRecord.load(finished_race)
    shutil.copytree(finished_race, out)
    (out / "race.json").unlink()
    path = out / "entrants" / record.winner / "x1" / "after-1.json"
    write_json({**read_json(path), "guesses": "00"}, path)
    with pytest.raises(CheckpointError, match=r"after-1\.json is damaged") as raised:
        ran(question(searched), out)
    assert f"remove {path.parent}, and this training is done again" in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": 1}, "its seed is 0 there and 1 now"),
        ({"limits": Budget(max_params=9e9)}, "limits"),
        ({"metric": "macro_f1"}, "metric"),
    ],
)
def test_another_race_does_not_go_on_in_its_folder(
    finished_race: Path, searched: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(OutputExistsError, match=words):
        ran(question(searched, **changes), finished_race)


# --- who starts ------------------------------------------------------------------------------------------------------------


def test_a_limit_that_nobody_keeps_is_refused_before_any_training(
    searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Pretended(lambda name: 5.0).install(monkeypatch)
    monkeypatch.setattr(legs, "finetune", no_training)
    with pytest.raises(BudgetError, match=r"none of 5 networks keeps .*; nothing was trained: widen the limits") as raised:
        ran(question(searched, Budget(max_latency_ms=1.0)), tmp_path / "race")
    assert "against the limit of 1 ms" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "race" / "entrants").exists()
    assert not (tmp_path / "race" / "entrants.json").exists()


def test_whoever_is_slower_than_the_limit_does_not_start(searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Pretended(lambda name: 2.0 if name == "most-expensive" else 0.9).install(monkeypatch)
    found = field_of(question(searched, Budget(max_latency_ms=1.0)), tmp_path)
    assert {one.name for one in found.entrants} == EVERYBODY - {"most-expensive"}
    (refused,) = found.refused
    assert (refused.name, refused.entrant is not None) == ("most-expensive", True)
    assert "2 ms against the limit of 1 ms" in refused.reason


def test_all_are_measured_together_with_a_few_in_reserve(searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretended = Pretended().install(monkeypatch)
    found = field_of(question(searched, race=RaceConfig(finalists=6, homogeneous=2, rivals=(RIVAL,))), tmp_path, most=2)
    assert len(found.entrants) == 2
    assert [len(names) for names in pretended.together] == [2 + SPARE]
    assert {one.reason for one in found.refused} == {"keeps the limits, a spare: no more than 2 start"}
    assert len(found.refused) == SPARE


@pytest.mark.parametrize("which", ["test-resnet", "most-expensive"])
def test_what_cannot_be_exported_is_out_with_its_reason_and_the_others_start(
    searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished_race: Path, which: str
) -> None:
    entrant = RaceRecord.load(finished_race)[which].entrant
    Pretended(unexportable=[entrant.architecture.slug if entrant.architecture else "test-resnet-32"]).install(monkeypatch)
    found = field_of(question(searched), tmp_path)
    assert {one.name for one in found.entrants} == EVERYBODY - {which}
    (refused,) = found.refused
    assert (refused.name, refused.network) == (which, entrant.network)
    assert "has an operator that ONNX lacks" in refused.reason


def test_a_rival_whose_weights_cannot_be_had_is_out_with_its_reason(
    searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Pretended().install(monkeypatch)
    words = f"timm:test_resnet@{tmp_path / 'missing.safetensors'}"
    found = field_of(question(searched, race=RaceConfig(finalists=1, homogeneous=0, rivals=(words,))), tmp_path)
    (refused,) = found.refused
    assert (refused.name, refused.kind, refused.network) == ("test-resnet", "rival", words)
    assert "missing.safetensors" in refused.reason


def test_weights_of_the_supernet_that_cannot_be_read_end_the_race(
    searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Pretended().install(monkeypatch)
    shutil.copytree(searched, tmp_path / "copy")
    (tmp_path / "copy" / "super" / "model.safetensors").write_bytes(b"\0" * 99)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        field_of(question(tmp_path / "copy"), tmp_path)


def test_a_rival_that_is_named_twice_has_two_folders(searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Pretended().install(monkeypatch)
    race = RaceConfig(finalists=1, homogeneous=0, rivals=(RIVAL, RIVAL))
    assert [one.name for one in field_of(question(searched, race=race), tmp_path).entrants if one.kind == "rival"] == [
        "test-resnet", "test-resnet-2"
    ]  # fmt: skip


def test_where_nothing_can_be_measured_rivals_keep_no_latency_limit_and_others_start_without_one(
    searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain, "elsewhere", lambda meaning, facts: "this is another device")
    found = field_of(question(searched), tmp_path)
    assert "test-resnet" in {one.name for one in found.entrants}
    assert all(one.timing is None for one in found.entrants)
    with pytest.raises(BudgetError, match="its latency cannot be measured: this is another device"):
        field_of(question(searched, Budget(max_latency_ms=1.0)), tmp_path)
    assert next(iter(plan_lines(found, Schedule((), 4, (1.0,)), Budget(), "this is another device"))) == (
        "latencies are not measured here: this is another device"
    )


# --- trainings that fail -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_entrant_that_diverges_is_out_with_its_reason_and_the_race_goes_on(
    searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first factor overflows at once for everybody; the second one is as usual."""
    Pretended().install(monkeypatch)
    wild = FINETUNE.model_copy(update={"max_nonfinite": 1, "epochs": 2})
    race = RaceConfig(finalists=2, homogeneous=0, rivals=(), learning_rates=(1e30, 1.0), cost=3)
    record = ran(question(searched, race=race, finetune=wild), tmp_path / "race")
    assert {one.rate for one in record.entrants} == {1.0}
    for one in record.entrants:
        failed = [part.failed for part in one.trained if part.rate == 1e30]
        assert len(failed) == 1
        assert "gradients that are not finite" in (failed[0] or "")
    assert RaceRecord.load(tmp_path / "race") == record


@pytest.mark.slow
def test_a_race_in_which_everybody_diverges_is_an_error_with_a_reason(
    searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Pretended().install(monkeypatch)
    wild = FINETUNE.model_copy(update={"max_nonfinite": 1, "epochs": 2})
    race = PAIR.model_copy(update={"learning_rates": (1e30,)})
    with pytest.raises(TrainingError, match=r"none of 3 networks could be trained; finalist-1: .* not finite"):
        ran(question(searched, race=race, finetune=wild), tmp_path / "race")


def test_an_entrant_for_which_the_memory_is_too_small_is_out_and_the_race_goes_on(
    searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Pretended().install(monkeypatch)

    def short_of_memory(network: nn.Module, parts: object, config: FinetuneConfig, out: Path, **options: Any) -> nn.Module:
        if "most-expensive" in out.parts:
            raise RuntimeError("CUDA out of memory. Tried to allocate 9 GiB")
        return finetune(network, parts, config, out, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(legs, "finetune", short_of_memory)
    short = FINETUNE.model_copy(update={"epochs": 2})
    record = ran(question(searched, race=PAIR, finetune=short), tmp_path / "race")
    assert record.winner in ("finalist-1", "finalist-2")
    assert "memory" in (record["most-expensive"].out or "")
    assert record["most-expensive"].rate is None


# --- what cannot be asked ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{"patience": 3}, {"fold_search": True}])
def test_a_finetune_that_uses_the_images_that_decide_is_refused(searched: Path, change: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=next(iter(change))) as raised:
        question(searched, finetune=FINETUNE.model_copy(update=change))
    assert "do without a race" in str(raised.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("timm:test_resnett@scratch", "timm has no model 'test_resnett'; did you mean test_resnet"),
        ("resnet18", "is no network of timm; write timm:NAME"),
        ("timm:", "timm has no model ''"),
    ],
)
def test_a_rival_that_timm_does_not_know_is_refused_by_name_before_anything_is_measured(
    searched: Path, words: str, said: str
) -> None:
    with pytest.raises(RecipeError, match=re.escape(said)) as raised:
        question(searched, race=RaceConfig(rivals=(words,)))
    assert str(raised.value).startswith(f"rival {words!r}")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "values",
    [{"race": {}, "finetune": {"patience": 3}}, {"race": {"rivals": ["resnet18"]}}],
)
def test_a_run_refuses_a_race_that_cannot_be_before_its_training(tmp_path: Path, values: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=r"leave it out|is no network of timm"):
        run_recipe(parse_recipe(values), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_weights_are_those_that_were_searched(searched: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(searched / "super", tmp_path / "other"))
    record = read_json(other / "supernet.json")
    write_json({**record, "weights_digest": "0" * 64}, other / "supernet.json")
    with pytest.raises(CheckpointError, match=r"of other weights than those in .*other; give the supernet that was searched"):
        ran(question(searched, supernet=other), tmp_path / "race")
    assert not (tmp_path / "race").exists()


def test_networks_that_break_a_countable_limit_take_no_place_from_those_that_keep_it(
    searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = SearchRecord.load(searched / "search")
    params = sorted(candidate.cost.params for candidate in record.result.candidates)
    limits = Budget(max_params=params[1])  # the two smallest keep it
    Pretended().install(monkeypatch)
    asked = question(searched, limits, RaceConfig(finalists=2, homogeneous=1, rivals=()))
    selection = Selection(
        networks=Networks(supernet=asked.supernet, parts=asked.parts), search=asked.search, limits=limits, config=asked.race,
        table=None, keeper=None, unmeasured="not here",
    )  # fmt: skip
    found = selection.field(4)
    assert found.entrants
    assert all(one.params <= params[1] for one in found.entrants)
    assert not [one for one in found.refused if "against the limit" in one.reason]


@pytest.mark.parametrize(
    ("record", "parent"),
    [
        ({"train": {"start": None}}, None),
        ({"train": {"start": "timm:vit_tiny_patch16_224"}}, "timm:vit_tiny_patch16_224"),
        ({"train": {"start": "FOLDER"}}, None),  # that one started from nothing
        ({}, "official:supernet-tiny.pth"),
    ],
)
def test_a_parent_is_a_pretrained_network_however_many_supernets_lie_between(
    record: dict[str, Any], parent: str | None, tmp_path: Path
) -> None:
    (before := tmp_path / "before").mkdir()
    write_json({"data": {"source": "photos"}, "train": {"start": None}}, before / "supernet.json")
    if record.get("train", {}).get("start") == "FOLDER":
        record = {"train": {"start": str(before)}}
    (tmp_path / "own").mkdir()
    write_json({"data": {"source": "official:supernet-tiny.pth"}, **record}, tmp_path / "own" / "supernet.json")
    assert parent_of(tmp_path / "own") == parent


def test_a_rival_that_is_too_slow_among_the_others_takes_smaller_images(
    searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([2.0, 0.9])  # at 64 px, where the first look was hopeful, then at 32 px
    pretended = Pretended(lambda name: next(times) if name == "test-resnet" else 0.5).install(monkeypatch)
    asked = question(searched, Budget(max_latency_ms=1.0), RaceConfig(finalists=1, homogeneous=0, rivals=(RIVAL,)))
    keeper, _ = chain._timekeeper(asked, tmp_path, Surroundings())
    found = Selection(
        networks=Networks(supernet=asked.supernet, parts=asked.parts), search=asked.search, limits=asked.limits,
        config=asked.race, table=None, keeper=keeper,
    ).field(4)  # fmt: skip
    rival = next(one for one in found.entrants if one.kind == "rival")
    assert (rival.image_size, rival.note) == (32, "at 32 px, the search's networks take 8 px")
    assert rival.latency_ms == 0.9
    assert len(pretended.together) == 2
