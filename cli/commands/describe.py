"""`autoformer describe`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autoformer.cli.facts import WHY_COUNTS_DIFFER, facts_of_architecture, facts_of_space, published_counts
from autoformer.cli.options import Json

if TYPE_CHECKING:
    from autoformer.profiling.race.record import RaceRecord


def describe(
    thing: Annotated[str, typer.Argument(help="A space (name or YAML), an architecture (name, JSON, file), or a folder.")],
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
    """
    from autoformer.cli.answer import print_run
    from autoformer.cli.console import print_facts, print_json
    from autoformer.profiling.race.record import RaceRecord

    facts = facts_of(thing, image_size, num_classes, space)
    if json:
        print_json(facts)
    elif facts.get("kind") == "run":
        print_run(facts, Path(thing))
    elif facts.get("kind") == "race":
        print_race(RaceRecord.load(Path(thing)))
    else:
        print_facts(thing, {name: readable(name, value) for name, value in facts.items()})


def facts_of(
    thing: str, image_size: int | None = None, num_classes: int | None = None, space_name: str | None = None
) -> dict[str, Any]:
    """What `thing` is; JSON. Raises `ArchitectureError` listing what is known, `CheckpointError` for a damaged folder."""
    from autoformer.architecture import PUBLISHED, PUBLISHED_SPACES
    from autoformer.cli.commands.extract import read_architecture
    from autoformer.errors import ArchitectureError
    from autoformer.parsing import read_space
    from autoformer.space import PRESETS

    path = Path(thing)
    options = {"--image-size": image_size, "--num-classes": num_classes, "--space": space_name}
    given = [name for name, value in options.items() if value is not None]
    if thing in PRESETS or path.suffix in (".yaml", ".yml"):
        if space_name is not None:
            raise ArchitectureError(f"--space has no effect: {thing} is a space itself; leave it out")
        return facts_of_space(read_space(thing, image_size=image_size, num_classes=num_classes))
    if path.is_dir():
        if given:
            raise ArchitectureError(f"{given[0]} has no effect on the folder {path}, which names its own; leave it out")
        return facts_of_folder(path)
    if path.is_file() and path.suffix != ".json":
        raise ArchitectureError(
            f"describe takes a space (a name or YAML), an architecture (a name or JSON) or a folder, not the file {path}; "
            "`autoformer check` tells about ONNX files"
        )
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


def facts_of_folder(path: Path) -> dict[str, Any]:
    """What one of the folders that the commands write holds. Raises `CheckpointError` naming the file that is damaged."""
    from autoformer.errors import ArchitectureError, CheckpointError
    from autoformer.files import read_json
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
        return {"kind": "export", "params": manifest.params, "flops": manifest.flops, "artefacts": files}
    if (path / "report.json").exists():
        return {"kind": "run", **read_json(path / "report.json")}
    if (path / "config.json").exists():
        return facts_of_timm_network(path)
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
        "kind": "search", "budget": search.budget.to_dict(), "chosen": chosen.architecture.to_dict(), **asdict(cost),
        "limits_used": search.stated.use_of(cost), "latency_is": "predicted" if measured is None else "measured",
    }  # fmt: skip


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
    if isinstance(value, list):
        return ", ".join(f"{item:g}" if isinstance(item, float) else str(item) for item in value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
