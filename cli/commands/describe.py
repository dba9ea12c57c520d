"""`autoformer describe`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autoformer.cli.facts import WHY_COUNTS_DIFFER, facts_of_architecture, facts_of_space, published_counts
from autoformer.cli.options import Json

if TYPE_CHECKING:
    from autoformer.profiling.race.record import RaceRecord

JUDGED = "evaluation.json"  # in what `evaluate --out` wrote


def describe(
    thing: Annotated[
        str,
        typer.Argument(help="A space or a recipe (name, YAML), a network (name, JSON, timm:NAME[@FILE]), a folder, or a file."),
    ],
    image_size: Annotated[int | None, typer.Option("--image-size", help="Pixels; for a space or an architecture.")] = None,
    num_classes: Annotated[int | None, typer.Option("--num-classes", help="For a space or an architecture.")] = None,
    space: Annotated[
        str | None, typer.Option("--space", help="Space of an architecture; the published ones have theirs.")
    ] = None,
    json: Json = False,
) -> None:
    """Say what something is, with its params and FLOPs (multiply-adds, canonical form).

    Examples:

      autoformer describe tiny

      autoformer describe AutoFormer-T --json

      autoformer describe runs/quickstart

      autoformer describe runs/quickstart/finetuned

      autoformer describe timm:resnet18
    """
    from autoformer.cli.answer import print_run
    from autoformer.cli.console import print_facts, print_json
    from autoformer.cli.known_files import folder_of_file
    from autoformer.profiling.race.record import RaceRecord

    facts = facts_of(thing, image_size, num_classes, space)
    folder = folder_of_file(Path(thing)) or Path(thing)
    if json:
        print_json(facts)
    elif facts.get("kind") == "run":
        print_run(facts, folder)
    elif facts.get("kind") == "race":
        print_race(RaceRecord.load(folder))
    elif "artefacts" in facts:
        print_export(thing, facts)
    else:
        print_facts(thing, {name: readable(name, value) for name, value in facts.items()})


def facts_of(
    thing: str, image_size: int | None = None, num_classes: int | None = None, space_name: str | None = None
) -> dict[str, Any]:
    """What `thing` is; JSON. Raises `ArchitectureError` listing what is known, `CheckpointError` for a damaged folder."""
    from autoformer.architecture import PUBLISHED, PUBLISHED_SPACES
    from autoformer.cli import known_files
    from autoformer.cli.commands.extract import read_architecture
    from autoformer.errors import ArchitectureError
    from autoformer.files import TIMM
    from autoformer.parsing import read_space
    from autoformer.space import PRESETS

    path = Path(thing)
    options = {"--image-size": image_size, "--num-classes": num_classes, "--space": space_name}
    given = next((name for name, value in options.items() if value is not None), None)
    if thing not in PRESETS and (recipe := known_files.facts_of_recipe(thing)) is not None:
        return _with_no_option(given, f"recipe {thing}", recipe)
    if thing in PRESETS or path.suffix in (".yaml", ".yml"):
        if space_name is not None:
            raise ArchitectureError(f"--space has no effect: {thing} is a space itself; leave it out")
        return facts_of_space(read_space(thing, image_size=image_size, num_classes=num_classes))
    if thing.startswith(TIMM):
        return _with_no_option(given, f"the network {thing}", known_files.facts_of_timm(thing))
    if given is None:
        path = known_files.folder_of_file(path) or path
    if path.is_dir():
        return facts_of_folder(path) if given is None else _with_no_option(given, f"the folder {path}", {})
    if path.is_file() and (facts := known_files.facts_of_file(path)) is not None:
        return _with_no_option(given, f"the file {path}", facts)
    if not path.is_file() and thing not in PUBLISHED and not thing.lstrip().startswith(("{", "[")):
        raise ArchitectureError(known_files.nothing_called(thing))
    architecture = read_architecture(thing, {})
    name = space_name or PUBLISHED_SPACES.get(thing)
    if name is None:
        raise ArchitectureError("give --space for an architecture in JSON: its costs depend on patch and head width")
    space = read_space(name, image_size=image_size, num_classes=num_classes)
    space.check(architecture)
    facts = facts_of_architecture(architecture, space)
    if thing in PUBLISHED and space == PRESETS[PUBLISHED_SPACES[thing]]:
        facts["other_counts"] = published_counts(thing)
    return facts


def _with_no_option(given: str | None, what: str, facts: dict[str, Any]) -> dict[str, Any]:
    """The facts. Raises `ArchitectureError` for an option that is given beside them."""
    from autoformer.errors import ArchitectureError

    if given is not None:
        raise ArchitectureError(f"{given} has no effect on {what}, which names its own; leave it out")
    return facts


def facts_of_folder(path: Path) -> dict[str, Any]:
    """What one of the folders that the commands write holds. Raises `CheckpointError` naming the file that is damaged."""
    from autoformer.cli.known_files import facts_of_file, facts_of_images, folder_of_file
    from autoformer.errors import ArchitectureError, CheckpointError
    from autoformer.files import read_json, refuse_unfinished
    from autoformer.space import SearchSpace

    if (path / "architecture.json").exists():
        return facts_of_network(path)
    if (file := path / "supernet.json").exists():
        record = read_json(file, "space", "data")
        if not isinstance(record["data"], dict):
            raise CheckpointError(f"{file} does not describe its images: data is not an object; it was edited or damaged")
        try:
            facts = {**facts_of_space(SearchSpace.from_dict(record["space"])), "data": record["data"].get("source")}
        except ArchitectureError as error:
            raise CheckpointError(f"{file} is damaged: {error}") from error
        parts = record["data"].get("parts")
        beside = parts.get("unlabelled") if isinstance(parts, dict) else None
        return {**facts, "unlabelled": beside.get("images")} if isinstance(beside, dict) else facts
    if (path / "search.json").exists():
        return facts_of_search(path)
    if (path / "race.json").exists():
        from autoformer.profiling.race.record import RaceRecord

        return {"kind": "race", **RaceRecord.load(path).to_dict()}
    if (path / "entrants.json").exists():
        raise CheckpointError(f"{path} holds an unfinished race; run it again to finish")
    if (path / "manifest.json").exists():
        from autoformer.export.manifest import Manifest

        manifest = Manifest.load(path)
        files = {f"{a.format} {a.precision}": f"{a.status}: {a.reason}" for a in manifest.artefacts}
        facts = {"kind": "export", "params": manifest.params, "flops": manifest.flops, "artefacts": files}
        is_bundle = (path / "bundle.json").exists()
        return {**facts, "kind": "bundle", "on the device": "python3 board.pyz verify"} if is_bundle else facts
    if (report := path / "report.json").exists():
        told = None if folder_of_file(report) == path else facts_of_file(report)  # of several sources
        return told or {"kind": "run", **read_json(report)}
    if (path / JUDGED).is_file() and (told := facts_of_file(path / JUDGED)) is not None:
        return told
    refuse_unfinished(path)
    if (path / "run.json").exists():
        raise CheckpointError(f"{path} holds a run without its report; write it: autoformer report build {quote(str(path))}")
    if (path / "config.json").exists():
        return facts_of_timm_network(path)
    if (images := facts_of_images(path)) is not None:
        return images
    raise CheckpointError(f"{path} holds nothing this tool knows; expected a supernet, subnet, search, race, export or run")


def facts_of_search(path: Path) -> dict[str, Any]:
    """The choice of a finished search, after measuring where it measured, and how much of the stated limits it uses."""
    from dataclasses import replace

    from autoformer.profiling.tables.limit import FILE_NAME, LatencyAnswer, finally_chosen
    from autoformer.search.record import SearchRecord

    search = SearchRecord.load(path)
    chosen = finally_chosen(search.result, path).chosen
    measured = LatencyAnswer.load(path).chosen if (path / FILE_NAME).exists() else None
    cost = chosen.cost if measured is None else replace(chosen.cost, latency_ms=measured.timing.measured_ms)
    return {
        "kind": "search", "budget": search.stated.to_dict(), "searched_with": search.budget.to_dict(),
        "chosen": chosen.architecture.to_dict(), **asdict(cost), "limits_used": search.stated.use_of(cost),
        "latency_is": "predicted" if measured is None else "measured",
    }  # fmt: skip


def print_export(thing: str, facts: dict[str, Any]) -> None:
    """The sizes of an exported network, and what became of each of its files."""
    from autoformer.cli.console import print_facts, print_table, say

    print_facts(thing, {name: readable(name, value) for name, value in facts.items() if name != "artefacts"})
    say()
    rows = [(name, *said.split(": ", 1)) for name, said in facts["artefacts"].items()]
    print_table("files", ("file", "status", "why"), rows)


def print_race(record: RaceRecord) -> None:
    """The decision of a race, and who took part."""
    from autoformer.cli.console import print_table, say
    from autoformer.profiling.reports import race

    values = race.values(record)
    say(values["sentence"])
    cells = race.entrant_cells(values)
    columns = ["; ".join(column for column, _ in group) for group in cells[0]]
    print_table("Who took part", columns, [[[text for _, text in group] for group in groups] for groups in cells])
    if values["refused"]:
        refused = race.refused_table(values)
        print_table(refused.title, refused.columns, refused.rows)
    say(race.agreement_text(values))
    say(race.cost_text(values))


def facts_of_timm_network(path: Path) -> dict[str, Any]:
    """What the folder of a network out of timm says of it, without loading torch."""
    from autoformer.files import read_json

    config = read_json(path / "config.json", "architecture")
    told = config.get("pretrained_cfg") or {}
    facts = {
        "kind": "network of timm", "name": config["architecture"], "classes": config.get("num_classes"),
        "input_size": told.get("input_size"), "mean": told.get("mean"), "std": told.get("std"),
    }  # fmt: skip
    return {name: value for name, value in facts.items() if value is not None}


def facts_of_network(path: Path) -> dict[str, Any]:
    """What the folder of a network holds, without loading torch. Raises `CheckpointError` when its files contradict."""
    from autoformer.architecture import Architecture, SubnetGeometry
    from autoformer.errors import ArchitectureError, CheckpointError
    from autoformer.files import read_json
    from autoformer.space import SearchSpace

    file = path / "config.json"
    arguments = read_json(file, "model_args")["model_args"]
    try:
        architecture, geometry = SubnetGeometry.of_file(arguments)
        space = SearchSpace.of_one(architecture, geometry)
    except (ArchitectureError, CheckpointError) as error:
        raise CheckpointError(f"{file} does not describe a network: {error}") from error
    try:
        stored = Architecture.from_dict(read_json(path / "architecture.json"))
    except ArchitectureError as error:
        raise CheckpointError(f"{path / 'architecture.json'} is damaged: {error}") from error
    if stored != architecture:
        raise CheckpointError(
            f"{path}: architecture.json ({stored.slug}) and config.json ({architecture.slug}) differ; one was edited"
        )
    return facts_of_architecture(architecture, space)


def readable(name: str, value: Any) -> str:
    """A fact for people."""
    from autoformer.architecture import Architecture
    from autoformer.cli.facts import WHERE
    from autoformer.cost import show, use_words

    if name in ("params", "flops") and isinstance(value, int):
        return f"{show(name, value)} ({value:,}{' multiply-adds' if name == 'flops' else ''})"
    if name == "flops" and value is None:
        return "not counted"
    if name == "executed_flops":
        return ", ".join(f"{form} {show('flops', flops)} ({WHERE[form]})" for form, flops in value.items()) + " (multiply-adds)"
    if name == "alignment_waste":
        return f"{100 * value:.1f} % more FLOPs if every width were padded to a multiple of 32"
    if name == "supernet_memory_mib":
        return ", ".join(f"{sharing} {mib:,} MiB" for sharing, mib in value.items()) + " (weights in float32)"
    if name == "anatomy":
        return ", ".join(f"{key} {item}" for key, item in value.items())
    if name == "architecture":
        return str(Architecture.from_dict(value))
    if name == "chosen":
        return str(Architecture.from_dict(value))
    if name in ("budget", "searched_with"):
        measures = {"params": "parameters", "flops": "FLOPs", "latency_ms": "latency"}
        signs = {"max": "at most", "min": "at least"}
        limits = ((*limit.split("_", 1), found) for limit, found in value.items() if found is not None)
        return ", ".join(f"{measures[name]} {signs[end]} {show(name, found)}" for end, name, found in limits) or "no limits"
    if name == "latency_ms" and value is not None:
        return show(name, value)
    if name == "limits_used":
        return ", ".join(use_words(limit, share) for limit, share in value.items()) or "no upper limit"
    if name == "other_counts":
        paper, official = show("flops", value["paper_flops"]), show("flops", value["official_code_flops"])
        unfactorised, factorised, norms, products = (
            show("flops", value[name])
            for name in (
                "unfactorised_relative_position_flops", "relative_position_flops", "layer_norm_flops", "official_products_flops",
            )
        )  # fmt: skip
        return (
            f"paper {show('params', value['paper_params'])} params, {paper} FLOPs; official code {official}. {WHY_COUNTS_DIFFER} "
            f"Its products as executed are ours - {norms} LayerNorm - {factorised} relative position + {unfactorised} for the "
            f"N×N embedding = {products}. {value['paper_probably']}"
        )
    if isinstance(value, dict) and {"params", "flops"} <= set(value):
        return f"{show('params', value['params'])} params, {show('flops', value['flops'])} FLOPs (multiply-adds)"
    if isinstance(value, dict):
        return ", ".join(f"{key} {readable('', item)}" for key, item in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(f"{item:g}" if isinstance(item, float) else str(item) for item in value)
    if value is None or isinstance(value, bool):
        return {None: "–", True: "yes", False: "no"}[value]
    return f"{value:,}" if isinstance(value, int) else str(value)
