"""`autoformer run`: the other commands one after the other, each in its own folder, resumable at every step.

A step that finds its finished folder loads it; one that finds half of its work goes on with it. The test part is read only
at the end, when every choice is made, once per artefact.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from autoformer import __version__
from autoformer.cli.chain.helpers import helpers, processes, shared_by
from autoformer.cli.chain.legs import Question, check_race
from autoformer.cli.chain.limits import idle_line, refuse_impossible, shares_line, uncertain_line
from autoformer.cli.chain.measured_again import measured_again, profile_files
from autoformer.cli.chain.parent import as_begun, begun_with, check_taught, has_parent, taught_by, to_be_taught, told_of_parent
from autoformer.cli.chain.places import few_places
from autoformer.cli.chain.race import deliver, run_race
from autoformer.cli.chain.recipe import Recipe
from autoformer.cli.chain.starting import beginning, refuse_other_run, with_fitting_batch, with_usual
from autoformer.cli.chain.steps import Steps, disturbed_line, steps_of
from autoformer.cli.class_order import teacher_line
from autoformer.cost import Budget, CostModel, ExactCosts, check_feasible
from autoformer.data.ledger import LEDGER
from autoformer.data.loading import check_readable, load_parts, without_recorded
from autoformer.data.parts import DataParts, TestPart, describe_parts
from autoformer.data.preprocessing import Preprocessing
from autoformer.errors import RecipeError
from autoformer.evaluate import EvaluationSet, Predict, predict_with
from autoformer.export.artefacts import ExportSource, export_network
from autoformer.export.judging.answers import ask
from autoformer.export.judging.mistakes import save_mistakes, worst_mistakes
from autoformer.export.manifest import Manifest
from autoformer.export.predictor import Predictor, open_predictor
from autoformer.files import claim_folder, file_digest, read_json, sole_worker, write_json
from autoformer.networks.folders import extract, load_subnet, record_of_network
from autoformer.networks.supernet import Supernet
from autoformer.parsing import read_budget
from autoformer.pretrained.named_network import NamedNetwork, open_network
from autoformer.profiling.insides.onnxruntime_layers import layers_of_onnx
from autoformer.profiling.measuring.device import DeviceFacts
from autoformer.profiling.measuring.measure import MeasureConfig
from autoformer.profiling.measuring.system_files import usable_cores
from autoformer.profiling.profiles.artefact_costs import counted_flops
from autoformer.profiling.profiles.int8_speed import note_int8_speed
from autoformer.profiling.profiles.latency import Profile
from autoformer.profiling.reports.run_folder import FP32, Run
from autoformer.profiling.reports.run_page import build_report
from autoformer.profiling.tables.costs import TableCosts, margin_of, searched_with
from autoformer.profiling.tables.limit import LatencyAnswer, finally_chosen
from autoformer.profiling.tables.loop import LatencyQuestion, answer_latency, measure_networks
from autoformer.profiling.tables.measuring import TableConfig, measure_table
from autoformer.profiling.tables.table import LatencyTable
from autoformer.progress import Progress, silent
from autoformer.search.answer import StoredSearch
from autoformer.search.config import Goal
from autoformer.search.loop import search_supernet
from autoformer.search.record import SearchRecord
from autoformer.search.result import SearchResult
from autoformer.search.sizing import SearchPlan
from autoformer.search.storage import check_place
from autoformer.settings import write_yaml
from autoformer.space import SearchSpace
from autoformer.temporary import temporary_folder
from autoformer.tensors import read_tensors
from autoformer.training.cached_teacher import size_line
from autoformer.training.config import FinetuneConfig
from autoformer.training.runs import finetune, train_supernet
from autoformer.training.trackers import trackers_of
from autoformer.training.trainer import Surroundings, plan_for

GRAPHS = "graphs"  # folder of exported networks that are timed, until the choice is made


def run_recipe(
    recipe: Recipe,
    out: Path,
    progress: Progress = silent,
    workers: str = "1",
    say: Callable[[str], None] = lambda line: None,
    log: Sequence[str] = (),
    measure_again: bool = False,
) -> dict[str, Any]:
    """Runs the whole chain into `out` and gives the content of its `report.json`.

    `workers` processes share the search step (`helpers`), with the result of one. `say` is told what the images are and how
    large the search will be, the trackers named by `log` how the trainings go. Called again it goes on where it stopped; a
    finished run is only read, and with `measure_again` its files are timed anew. Raises `BudgetError` before anything is trained
    when no network keeps the budget, and `OutputExistsError` when `out` holds a run of another recipe or of other data.
    """
    trackers_of(log)  # whose package may be missing
    if (out / "report.json").exists():
        read_json(out / "report.json", "format", "chosen", "test", "budget")  # a damaged one, before any image is read
    plan = planned(recipe, out, progress, say)
    recipe, parts = plan.recipe, plan.parts
    identity = {"kind": "run", "recipe": plan.stated, "data": parts.digest}
    if recipe.profile.table is not None:
        identity["table"] = file_digest(recipe.profile.table)
    claim_folder(out, identity)
    if (out / "report.json").exists():
        _check_finished(out)
        report = read_json(out / "report.json", "format", "chosen", "test", "budget")
        if measure_again:
            return measured_again(plan.recipe, out, progress, say)
        say("this run is finished: nothing was done again, and this is what it found")
        return report
    with sole_worker(out):
        return _run(plan, out, Telling(progress, say, workers, tuple(log)))


@dataclass(frozen=True, kw_only=True)
class Planned:
    """What a run is going to do, checked before anything is trained."""

    recipe: Recipe  # with what is usual for its start
    stated: dict[str, Any]  # the recipe as it was given, JSON: what the folder is known by
    parts: DataParts
    space: SearchSpace
    start: Supernet | None


def planned(recipe: Recipe, out: Path, progress: Progress = silent, say: Callable[[str], None] = lambda line: None) -> Planned:
    """Reads the images and the start of a run into `out`, and checks its settings against both. Raises as `run_recipe` does."""
    if recipe.export.batch not in (None, recipe.profile.batch):
        raise RecipeError(
            f"export.batch {recipe.export.batch} fixes the files to it, so profile.batch must be the same, got "
            f"{recipe.profile.batch}; set both"
        )
    if recipe.race is not None:
        check_race(recipe.race, recipe.finetune)
    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
    recipe, stated = as_begun(recipe, out)
    refuse_other_run(out, stated)  # before any image is read
    parts = load_parts(recipe.data)
    if (out / "run.json").exists():
        parts = without_recorded(parts, read_json(out / "run.json", "data")["data"])
    else:
        parts = check_readable(parts, progress)  # an image that cannot be read should not end a run after its training
    teachers = (line for config in (recipe.train, recipe.finetune) for line in teacher_line(config.teacher, parts))
    search = f"search: {SearchPlan.of(len(parts.search), recipe.search)}"
    recipe, smaller = with_fitting_batches(recipe, len(parts.trained_on))
    taught = to_be_taught(recipe)  # what cannot be done, as a batch larger than the set, should not end a run after its training
    plans = [plan_for(parts, config, recipe.seed) for config in (taught.train, taught.finetune)]
    kept = dict.fromkeys(line for each in plans for line in size_line(each, len(parts.classes)))
    for line in (*describe_parts(parts), *smaller, *teachers, search, *kept, idle_line(recipe.budget)):
        if line:
            say(line)
    check_taught(recipe, parts)
    recipe = recipe.model_copy(update={"train": with_usual(recipe.train, out / "supernet")})
    space, start, _ = beginning(recipe, parts)
    counted = recipe.budget.model_copy(update={"max_latency": None})
    check_feasible(read_budget(space, ExactCosts(space), counted), space, ExactCosts(space))
    for line in few_places(recipe, space.image_size):
        say(line)
    return Planned(recipe=recipe, stated=stated, parts=parts, space=space, start=start)


def with_fitting_batches(recipe: Recipe, images: int) -> tuple[Recipe, list[str]]:
    """The recipe with batches that so many images fill, and what was changed, in lines."""
    train, first = with_fitting_batch(recipe.train, images, "train")
    finetune, second = with_fitting_batch(recipe.finetune, images, "finetune")
    return recipe.model_copy(update={"train": train, "finetune": finetune}), [*first, *second]


def _check_finished(out: Path) -> None:
    """Raises `CheckpointError` for a file of a finished run that is not what was written: what is called delivered is whole."""
    Run.load(out)
    manifest = Manifest.load(out / "export")
    for artefact in manifest.artefacts:
        if artefact.file is not None:
            manifest.verified_file(out / "export", artefact)
    for network in ("supernet", "subnet", "finetuned"):
        if network != "subnet" or (out / network).exists():  # where a rival won the race there is none
            read_tensors(out / network / "model.safetensors")


@dataclass(frozen=True)
class Telling:
    """Who is told how a run goes, and how many processes share its steps; nothing of it changes the result."""

    progress: Progress
    say: Callable[[str], None]
    workers: str
    log: tuple[str, ...] = ()  # names of trackers


def _run(plan: Planned, out: Path, telling: Telling) -> dict[str, Any]:
    recipe, parts, space, start = plan.recipe, plan.parts, plan.space, plan.start
    progress, say, workers = telling.progress, telling.say, telling.workers
    parent: Path | None = None
    steps = Steps(out, steps_of(recipe), say)
    around = Surroundings(progress=progress, trackers=trackers_of(telling.log))
    run = {
        "format": "autoformer/run/1",
        "version": __version__,
        "recipe": plan.stated,
        "data": parts.record,
        "space": space.to_dict(),
        "device": DeviceFacts.collect().to_dict(),
    }
    write_json(run, out / "run.json")
    check_place(out / "search")

    costs = steps.timed("latency table", lambda: _costs(recipe, space, out, progress))
    sought = _budget(recipe, space, costs, out)
    if line := shares_line(recipe, read_budget(space, costs, recipe.budget)):
        say(line)
    if isinstance(costs, TableCosts) and (line := uncertain_line(sought, recipe, costs.table)):
        say(line)
    if has_parent(recipe):
        parent = steps.timed("parent", lambda: told_of_parent(recipe, parts, out, around))
        start, recipe = begun_with(parent, parts, space), taught_by(recipe, parent)
    supernet = steps.timed(
        "train",
        lambda: train_supernet(
            space, parts, recipe.train, out / "supernet", start=start, metric=recipe.metric, seed=recipe.seed, around=around
        ),
    )
    if line := disturbed_line(out / "supernet" / "log.jsonl"):
        say(line)
    with step_helpers("search", recipe, out, workers):
        goal = Goal(costs=costs, budget=sought, metric=recipe.metric, seed=recipe.seed, latency_margin=margin_of(costs))
        result = steps.timed(
            "search",
            lambda: search_supernet(
                supernet, parts.search, parts.preprocessing, goal, recipe.search, out / "search",
                memory=out / "supernet" / "evaluations.db", progress=progress,
            ),
        )  # fmt: skip
    stated = read_budget(space, costs, recipe.budget)
    if isinstance(costs, TableCosts) and stated.max_latency_ms is not None and recipe.profile.rounds:
        measured = steps.timed("latency in the loop", lambda: _measure(recipe, result, costs.table, stated, out, progress))
        if measured.off_alike:
            say(f"latency in the loop: {measured.off_alike}")
    if recipe.race is not None:
        searched = SearchRecord.load(out / "search")
        workers = shared_by(workers, recipe.threads)
        recipe = recipe.model_copy(update={"finetune": beside_others(recipe.finetune, processes(workers)[0])})
        assert recipe.race is not None, "the same recipe"
        question = Question(
            supernet=out / "supernet", search=out / "search", parts=parts, limits=searched.stated, race=recipe.race,
            finetune=recipe.finetune, profile=recipe.profile, table=costs.table if isinstance(costs, TableCosts) else None,
            metric=recipe.metric, seed=recipe.seed, graphs=out / GRAPHS,
        )  # fmt: skip
        company = partial(step_helpers, "race", recipe, out, workers, telling.log)
        record = steps.timed("race", lambda: run_race(question, out / "race", around, say, company))
        deliver(record, out / "race", out / "finetuned")
        shutil.rmtree(out / "race" / "winner", ignore_errors=True)  # where the processes that helped put it
        winner = record.delivered.entrant.architecture
    else:
        winner = finally_chosen(result, out / "search").chosen.architecture
    shutil.rmtree(out / GRAPHS, ignore_errors=True)
    if winner is not None and not (out / "subnet").exists():
        steps.timed("extract", lambda: extract(out / "supernet", winner, out / "subnet"))
    if recipe.race is None:
        steps.timed(
            "finetune",
            lambda: finetune(
                load_subnet(out / "subnet")[0], parts, recipe.finetune, out / "finetuned", metric=recipe.metric,
                seed=recipe.seed, around=around,
            ),
        )  # fmt: skip
    finetuned = open_network(str(out / "finetuned"))
    _export(recipe, finetuned, parts, out, steps, progress)
    predictors = {"finetuned": predict_with(finetuned.network), **_onnx_models(out / "export")}
    if winner is not None:
        predictors = {"inherited": predict_with(load_subnet(out / "subnet")[0]), **predictors}
    if parent is not None:
        whole, own, _ = load_subnet(parent)
        steps.timed("test", lambda: score_on_test({"parent": predict_with(whole)}, parts.test, own, out, progress))
    steps.timed("test", lambda: score_on_test(predictors, parts.test, finetuned.preprocessing, out, progress))
    return build_report(out)


def beside_others(finetune: FinetuneConfig, count: int) -> FinetuneConfig:
    """How each of `count` processes finetunes: it prepares its images itself where there are no cores left for that."""
    if count == 1 or usable_cores() > count:
        return finetune
    return finetune.model_copy(update={"workers": 0})


@contextmanager
def step_helpers(
    step: Literal["search", "race"], recipe: Recipe, out: Path, workers: str, log: Sequence[str] = ()
) -> Iterator[None]:
    """While the block runs, a step of the run is shared by `workers` processes: the others run its command for the run's folder.

    They read the finished supernet with its images, the run's latency table and its recipe, so what they do is the same;
    if it were not, the folder would refuse them. A finished step needs none.
    """
    if workers == "1" or (out / step / f"{step}.json").exists():
        yield
        return
    with temporary_folder("helpers") as folder:
        same = folder / "recipe.yaml"  # with the overrides of the command line; the threads are shared out
        same.write_text(write_yaml({**recipe.model_dump(mode="json"), "threads": None}), encoding="utf-8")
        words = [step, "--supernet", str(out / "supernet"), "--out", str(out / step), "--recipe", str(same)]
        if step == "race":
            words += ["--search", str(out / "search")]  # which knows the limits
            words += [word for name in log for word in ("--log", name)]
        for name, limit in recipe.budget if step == "search" else ():
            if limit is not None:
                words += [f"--{name.replace('_', '-')}", limit]
        if (out / "latency_table.json").exists():
            words += ["--latency-table", str(out / "latency_table.json")]
        own_words = () if step == "race" or recipe.budget.max_latency is None else ("--no-measure",)
        with helpers(workers, *own_words, command=words):
            yield


def _budget(recipe: Recipe, space: SearchSpace, costs: CostModel, out: Path) -> Budget:
    """The limits to search with, checked and stored beside the stated ones in `budget.json`."""
    stated = read_budget(space, costs, recipe.budget)
    sought = searched_with(stated, space, costs)
    write_json(
        {"stated": recipe.budget.model_dump(), "limits": stated.to_dict(), "searched_with": sought.to_dict()}, out / "budget.json"
    )
    return sought


def _measure(
    recipe: Recipe, result: SearchResult, table: LatencyTable, stated: Budget, out: Path, progress: Progress
) -> LatencyAnswer:
    """Writes `search/latency_answer.json`: the measured finalists, and which of them is chosen."""
    question = LatencyQuestion(
        stated=stated, first=result.chosen.architecture, choose=recipe.search.choose, rounds=recipe.profile.rounds,
        finalists=recipe.profile.finalists, config=MeasureConfig.lasting(recipe.profile.seconds),
    )  # fmt: skip
    measurer = partial(measure_networks, table, config=question.config, folder=out / GRAPHS, progress=progress)
    return answer_latency(StoredSearch(out / "search"), table, question, out / "search", measurer=measurer)


def _export(recipe: Recipe, finetuned: NamedNetwork, parts: DataParts, out: Path, steps: Steps, progress: Progress) -> None:
    """Writes `export/`, `latency.json` and `layers.json`, each unless it exists; the manifest then says what int8 gains."""
    if not (out / "export").exists():
        taken = replace(finetuned.preprocessing, input_type=recipe.export.input)
        record = record_of_network(out / "finetuned") or {"data": parts.record}
        source = ExportSource.of(EvaluationSet.of(parts.search, taken), parts.classes, record["data"])
        source = replace(source, name=finetuned.name, flops=counted_flops(finetuned))
        steps.timed(
            "export",
            lambda: export_network(
                finetuned.network, out / "export", source, recipe.export, lambda message: progress("export", 0, 1, message)
            ),
        )
        progress("export", 1, 1)
    if not (out / "latency.json").exists():
        steps.timed("profile", lambda: profile_files(recipe, out, out / "latency.json", progress))
    if not (out / "layers.json").exists():
        fp32 = Manifest.load(out / "export").find("onnx", "fp32")
        if fp32 is not None and fp32.file is not None:
            path, size = out / "export" / fp32.file, fp32.batch or recipe.profile.batch
            layers = steps.timed("profile", lambda: layers_of_onnx(path, batch=size, threads=recipe.profile.threads))
            write_json(layers.to_dict(), out / "layers.json")
    note_int8_speed(out / "export", Profile.load(out / "latency.json").measurements)


def _costs(recipe: Recipe, space: SearchSpace, out: Path, progress: Progress) -> CostModel:
    """The cost model of the run: counts, and latencies where the budget limits them."""
    path = out / "latency_table.json"
    if recipe.profile.table is not None and not path.exists():
        LatencyTable.load(recipe.profile.table).save(path)  # a run folder stands alone
    if recipe.profile.table is None and recipe.budget.max_latency is None:
        return ExactCosts(space)
    if not path.exists():
        work = out / GRAPHS  # with the finished measurements of the table, which later ones do not read
        work.mkdir(exist_ok=True)
        refuse_impossible(recipe, space, work)
        profile = recipe.profile
        how = TableConfig(backend=profile.backend, batch=profile.batch, threads=profile.threads, networks=profile.networks)
        measure_table(space, how, folder=work, progress=progress).save(path)
    return TableCosts(space, LatencyTable.load(path))


def _onnx_models(folder: Path) -> dict[str, Predict]:
    """The exported ONNX files of a folder by name, ready to run."""
    manifest = Manifest.load(folder)
    return {
        f"{artefact.format} {artefact.precision}": open_predictor(manifest.verified_file(folder, artefact))
        for artefact in manifest.artefacts
        if artefact.status == "exported" and artefact.format == "onnx"
    }


def score_on_test(
    predictors: dict[str, Predict], test: TestPart, preprocessing: Preprocessing, out: Path, progress: Progress = silent
) -> dict[str, Any]:
    """Reads the test part once per predictor and writes `out/test.json`: labels, and each one's predictions.

    The worst mistakes of the file that is delivered, with their pictures, go into `mistakes.json` before.
    """
    path = out / "test.json"
    record: dict[str, Any] = {"format": "autoformer/test/1", "split": test.digest, "guesses": {}}
    if path.exists():
        record = read_json(path, "split", "guesses")
    for name, predict in predictors.items():
        if name not in record["guesses"]:
            own = predict.preparation(preprocessing) if isinstance(predict, Predictor) else preprocessing  # it may take uint8
            parts = [test.read(name, out / LEDGER)]
            answers = ask(predict, parts, own, progress=progress)
            if name == FP32:
                worst = worst_mistakes(answers, parts, own.value_range)
                save_mistakes(worst, out, reader=name, split=test.digest)
            record["guesses"][name] = answers.predicted.tolist()
            record["labels"] = answers.labels.tolist()
            write_json(record, path)
    return record
