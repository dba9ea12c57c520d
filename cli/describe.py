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


def describe(
    thing: Annotated[str, typer.Argument(help="A space (name or YAML), an architecture (name, JSON, file), or a folder.")],
    image_size: Annotated[int | None, typer.Option("--image-size", help="Pixels; for a space.")] = None,
    num_classes: Annotated[int, typer.Option("--num-classes", help="For a space or a published architecture.")] = 1000,
    space: Annotated[str | None, typer.Option("--space", help="Space of an architecture given as JSON.")] = None,
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


def facts_of(thing: str, image_size: int | None = None, num_classes: int = 1000, space_name: str | None = None) -> dict[str, Any]:
    """What `thing` is; JSON. Raises `ArchitectureError` listing what is known."""
    from autoformer.architecture import PUBLISHED, PUBLISHED_SPACES
    from autoformer.checkpoint import read_json
    from autoformer.cli.extract import read_architecture
    from autoformer.cli.spaces import read_space
    from autoformer.errors import ArchitectureError, CheckpointError
    from autoformer.space import PRESETS, SearchSpace

    path = Path(thing)
    if thing in PRESETS or path.suffix in (".yaml", ".yml"):
        return facts_of_space(read_space(thing, image_size=image_size, num_classes=num_classes))
    if path.is_dir() and not (path / "architecture.json").exists():
        if (path / "supernet.json").exists():
            record = read_json(path / "supernet.json", "space", "data")
            return {**facts_of_space(SearchSpace.from_dict(record["space"])), "data": record["data"].get("source")}
        if (path / "search.json").exists():
            from autoformer.search_result import load_search

            record = read_json(path / "search.json", "result", "budget")
            chosen = load_search(path)[0].chosen
            cost = {"params": chosen.cost.params, "flops": chosen.cost.flops, "latency_ms": chosen.cost.latency_ms}
            return {"kind": "search", "budget": record["budget"], "chosen": chosen.architecture.to_dict(), **cost}
        if (path / "manifest.json").exists():
            manifest = read_json(path / "manifest.json", "artefacts", "params", "flops")
            files = {f"{a['format']} {a['precision']}": f"{a['status']}: {a['reason']}" for a in manifest["artefacts"]}
            return {"kind": "export", "params": manifest["params"], "flops": manifest["flops"], "artefacts": files}
        if (path / "report.json").exists():
            return {"kind": "run", **read_json(path / "report.json")}
        raise CheckpointError(f"{path} holds nothing this tool knows; expected a supernet, subnet, search, export or run")
    if path.is_dir():
        config = read_json(path / "config.json", "model_args")["model_args"]
        space = space_of_model(config)
        architecture = read_architecture(thing, {})
    else:
        architecture = read_architecture(thing, {})
        name = space_name or PUBLISHED_SPACES.get(thing)
        if name is None:
            raise ArchitectureError("give --space for an architecture in JSON: its costs depend on patch and head width")
        space = read_space(name, image_size=image_size, num_classes=num_classes)
        if thing not in PUBLISHED:
            space.check(architecture)
    facts = facts_of_architecture(architecture, space)
    if thing in PUBLISHED and (image_size, num_classes) == (None, 1000):
        facts["other_counts"] = {**OTHER_COUNTS[thing], "why_they_differ": WHY_COUNTS_DIFFER}
    return facts


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
    """Choices and costs of one network, and what padding its widths to multiples of 32 would add."""
    from autoformer.cost import alignment_waste, count_flops, count_params

    return {
        "kind": "architecture",
        "slug": architecture.slug,
        "params": count_params(architecture, space),
        "flops": count_flops(architecture, space),
        "alignment_waste": alignment_waste(architecture, space),
        "depth": architecture.depth,
        "image_size": space.image_size_of(architecture),
        "num_classes": space.num_classes,
        "architecture": architecture.to_dict(),
    }


def space_of_model(values: dict[str, Any]) -> Any:
    """The space of the one network that a saved folder describes, without loading torch.

    Raises `CheckpointError` when something is missing.
    """
    from autoformer.errors import CheckpointError
    from autoformer.space import SearchSpace

    needed = {"embed_dim", "num_heads", "mlp_ratio", "img_size", "head_dim", "patch_size", "in_chans", "num_classes"}
    needed |= {"max_relative_position", "relative_position", "absolute_position"}
    if not isinstance(values, dict) or needed - set(values):
        raise CheckpointError(f"config.json does not describe a network: it lacks {', '.join(sorted(needed - set(values)))}")
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

    if name in ("params", "flops") and isinstance(value, int):
        return f"{show(name, value)} ({value:,}{' multiply-adds' if name == 'flops' else ''})"
    if name == "alignment_waste":
        return f"{100 * value:.1f} % more FLOPs if every width were padded to a multiple of 32"
    if name == "supernet_memory_mib":
        return ", ".join(f"{sharing} {mib:,} MiB" for sharing, mib in value.items()) + " (weights in float32)"
    if name == "architecture":
        return str(Architecture.from_dict(value))
    if name == "other_counts":
        paper, official = show("flops", value["paper_flops"]), show("flops", value["official_code_flops"])
        return (
            f"paper {show('params', value['paper_params'])} params, {paper} FLOPs; official code {official}. {WHY_COUNTS_DIFFER}"
        )
    if isinstance(value, dict) and {"params", "flops"} <= set(value):
        return f"{show('params', value['params'])} params, {show('flops', value['flops'])} FLOPs (multiply-adds)"
    if isinstance(value, list):
        return ", ".join(f"{item:g}" if isinstance(item, float) else str(item) for item in value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
