"""`autoformer describe`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from autoformer.cli.options import Json

# What the paper states (table 3) and what the official code's get_complexity gives for the published networks.
OTHER_COUNTS: dict[str, dict[str, float]] = {
    "AutoFormer-T": {"paper_params": 5.7e6, "paper_flops": 1.3e9, "official_code_flops": 1.3440e9},
    "AutoFormer-S": {"paper_params": 22.9e6, "paper_flops": 5.1e9, "official_code_flops": 4.8921e9},
    "AutoFormer-B": {"paper_params": 54e6, "paper_flops": 11e9, "official_code_flops": 11.2369e9},
}
WHY_COUNTS_DIFFER = (
    "Ours are the multiply-adds of the factorised relative position, LayerNorm as fvcore counts it. The official code counts one "
    "token too many in every product and the head for all tokens, relative position as 2·14·n² per layer, and no LayerNorm."
)
# The paper does not say how it counts; these are inferences from the sums of `published_counts`.
PAPER_PROBABLY = {
    "AutoFormer-T": "The paper's number probably leaves the N×N embedding of relative position out, since it would be {products} "
    "with it; whether it holds LayerNorm does not show in two digits.",
    "AutoFormer-S": "The paper's number is probably {products} cut after one digit, that is with the N×N embedding of relative "
    "position and without LayerNorm; without the embedding it could not be that large.",
    "AutoFormer-B": "The paper's number probably leaves the N×N embedding of relative position out, since it would be {products} "
    "with it, which is 11 only if cut off; whether it holds LayerNorm does not show in two digits.",
}


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

      autoformer describe runs/quickstart/finetuned
    """
    from autoformer.cli.console import print_facts, print_json

    facts = facts_of(thing, image_size, num_classes, space)
    if json:
        print_json(facts)
    else:
        print_facts(thing, {name: readable(name, value) for name, value in facts.items()})


def facts_of(
    thing: str, image_size: int | None = None, num_classes: int | None = None, space_name: str | None = None
) -> dict[str, Any]:
    """What `thing` is; JSON. Raises `ArchitectureError` listing what is known, `CheckpointError` for a damaged folder."""
    from autoformer.architecture import PUBLISHED, PUBLISHED_SPACES
    from autoformer.cli.extract import read_architecture
    from autoformer.cli.spaces import read_space
    from autoformer.errors import ArchitectureError
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
    from autoformer.checkpoint import read_json
    from autoformer.errors import ArchitectureError, CheckpointError
    from autoformer.space import SearchSpace

    if (path / "architecture.json").exists():
        return facts_of_network(path)
    if (file := path / "supernet.json").exists():
        record = read_json(file, "space", "data")
        if not isinstance(record["data"], dict):
            raise CheckpointError(f"{file} does not describe its images: data is no object; it was edited or damaged")
        try:
            return {**facts_of_space(SearchSpace.from_dict(record["space"])), "data": record["data"].get("source")}
        except ArchitectureError as error:
            raise CheckpointError(f"{file} is damaged: {error}") from error
    if (path / "search.json").exists():
        from autoformer.profiling.latency_answer import finally_chosen
        from autoformer.search_result import load_search

        record = read_json(path / "search.json", "result", "budget")
        chosen = finally_chosen(load_search(path)[0], path).chosen
        cost = {"params": chosen.cost.params, "flops": chosen.cost.flops, "latency_ms": chosen.cost.latency_ms}
        return {"kind": "search", "budget": record["budget"], "chosen": chosen.architecture.to_dict(), **cost}
    if (path / "manifest.json").exists():
        from autoformer.export.manifest import Manifest

        manifest = Manifest.load(path)
        files = {f"{a.format} {a.precision}": f"{a.status}: {a.reason}" for a in manifest.artefacts}
        return {"kind": "export", "params": manifest.params, "flops": manifest.flops, "artefacts": files}
    if (path / "report.json").exists():
        return {"kind": "run", **read_json(path / "report.json")}
    raise CheckpointError(f"{path} holds nothing this tool knows; expected a supernet, subnet, search, export or run")


def facts_of_network(path: Path) -> dict[str, Any]:
    """What the folder of a network holds, without loading torch. Raises `CheckpointError` when its files contradict."""
    from autoformer.architecture import Architecture
    from autoformer.checkpoint import read_json
    from autoformer.errors import ArchitectureError, CheckpointError

    file = path / "config.json"
    arguments = read_json(file, "model_args")["model_args"]
    try:
        space = space_of_model(arguments)
        choices = {name: arguments[name] for name in ("embed_dim", "num_heads", "mlp_ratio")}
        architecture = Architecture.from_dict({**choices, "image_size": arguments.get("searched_size")})
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


def facts_of_space(space: Any) -> dict[str, Any]:
    """Choices, number of architectures, the costs of the smallest, middle and largest, and the supernet's memory."""
    from dataclasses import replace

    from autoformer.cost import count_flops, count_params, count_supernet_params

    return {
        "kind": "space",
        "networks": space.size,
        "smallest": {"params": count_params(space.smallest, space), "flops": count_flops(space.smallest, space)},
        "middle": {"params": count_params(space.middle, space), "flops": count_flops(space.middle, space)},
        "largest": {"params": count_params(space.largest, space), "flops": count_flops(space.largest, space)},
        "supernet_memory_mib": {  # weights in float32, with shared and with independent weights per choice
            sharing: round(4 * count_supernet_params(replace(space, sharing=sharing)) / 2**20, 1)
            for sharing in ("entangled", "classical")
            if sharing == "entangled" or not (space.any_up_to_largest or space.prefix_qkv_bias)
        },
        **{name: value for name, value in space.to_dict().items() if name != "format"},
    }


def facts_of_architecture(architecture: Any, space: Any) -> dict[str, Any]:
    """Choices and costs of one network, and what padding its widths to multiples of 32 would add.

    Beside the canonical `flops` stand those of relative position as it is executed, by form.
    """
    from autoformer.cost import alignment_waste, count_flops, count_params
    from autoformer.executed_flops import count_executed_flops

    return {
        "kind": "architecture",
        "slug": architecture.slug,
        "params": count_params(architecture, space),
        "flops": count_flops(architecture, space),
        "executed_flops": {form: count_executed_flops(architecture, space, form) for form in ("bias", "tiled", "fused")},
        "alignment_waste": alignment_waste(architecture, space),
        "depth": architecture.depth,
        "image_size": space.image_size_of(architecture),
        "num_classes": space.num_classes,
        "architecture": architecture.to_dict(),
    }


def published_counts(name: str) -> dict[str, Any]:
    """How others count a published network, and of what the differences to ours consist; all in multiply-adds."""
    from autoformer.architecture import PUBLISHED, PUBLISHED_SPACES
    from autoformer.cost import count_flops, show
    from autoformer.executed_flops import count_layer_norm_flops, count_relative_position_flops, count_unfactorised_flops
    from autoformer.space import PRESETS

    network = (PUBLISHED[name], PRESETS[PUBLISHED_SPACES[name]])
    layer_norm, factorised = count_layer_norm_flops(*network), count_relative_position_flops(*network)
    without_either = count_flops(*network) - layer_norm - factorised
    unfactorised = count_unfactorised_flops(*network)
    return {
        **OTHER_COUNTS[name],
        "layer_norm_flops": layer_norm,
        "relative_position_flops": factorised,
        "unfactorised_relative_position_flops": unfactorised,
        "without_either_flops": without_either,
        "official_products_flops": without_either + unfactorised,
        "why_they_differ": WHY_COUNTS_DIFFER,
        "paper_probably": PAPER_PROBABLY[name].format(products=show("flops", without_either + unfactorised)),
    }


def space_of_model(values: Any) -> Any:
    """The space of the one network that a saved folder describes, without loading torch.

    Raises `CheckpointError` when something is missing, `ArchitectureError` when something cannot be.
    """
    from autoformer.errors import ArchitectureError, CheckpointError
    from autoformer.space import SearchSpace

    needed = {"embed_dim", "num_heads", "mlp_ratio", "img_size", "head_dim", "patch_size", "in_chans", "num_classes"}
    needed |= {"max_relative_position", "relative_position", "absolute_position"}
    if not isinstance(values, dict):
        raise CheckpointError(f"model_args is a {type(values).__name__}, expected a JSON object")
    if missing := needed - set(values):
        raise CheckpointError(f"it lacks {', '.join(sorted(missing))}")
    for name in ("num_heads", "mlp_ratio"):
        if not isinstance(values[name], list):
            raise ArchitectureError(f"{name} must be a list of numbers, one per block; got {str(values[name])[:40]}")
    if values.get("searched_size") not in (None, values["img_size"]):
        raise ArchitectureError(f"searched_size {values['searched_size']} contradicts img_size {str(values['img_size'])[:40]}")
    return SearchSpace(
        name="one",
        embed_dims=(values["embed_dim"],),
        depths=(len(values["num_heads"]),),
        num_heads=tuple(values["num_heads"]),
        mlp_ratios=tuple(values["mlp_ratio"]),
        image_sizes=(values["img_size"],),
        head_dim=values["head_dim"],
        patch_size=values["patch_size"],
        in_chans=values["in_chans"],
        num_classes=values["num_classes"],
        max_relative_position=values["max_relative_position"],
        relative_position=values["relative_position"],
        absolute_position=values["absolute_position"],
    )


def readable(name: str, value: Any) -> str:
    """A fact for people."""
    from autoformer.architecture import Architecture
    from autoformer.cost import show
    from autoformer.executed_flops import WHERE

    if name in ("params", "flops") and isinstance(value, int):
        return f"{show(name, value)} ({value:,}{' multiply-adds' if name == 'flops' else ''})"
    if name == "executed_flops":
        return ", ".join(f"{form} {show('flops', flops)} ({WHERE[form]})" for form, flops in value.items()) + " (multiply-adds)"
    if name == "alignment_waste":
        return f"{100 * value:.1f} % more FLOPs if every width were padded to a multiple of 32"
    if name == "supernet_memory_mib":
        return ", ".join(f"{sharing} {mib:,} MiB" for sharing, mib in value.items()) + " (weights in float32)"
    if name == "architecture":
        return str(Architecture.from_dict(value))
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
