"""`autoformer profile kit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoformer.cli.options import Json, Out, Quiet


def kit(
    out: Out,
    supernet: Annotated[Path | None, typer.Option("--supernet", help="Folder of the supernet that will be searched.")] = None,
    space: Annotated[
        str | None, typer.Option("--space", help="Instead of a supernet: a preset like tiny, or a YAML file.")
    ] = None,
    image_size: Annotated[int | None, typer.Option("--image-size", help="Pixels; with --space.")] = None,
    networks: Annotated[int, typer.Option("--networks", min=4, max=1000, help="Networks to measure.")] = 30,
    precision: Annotated[list[str] | None, typer.Option("--precision", help="fp32, fp16, int8; default fp32 and fp16.")] = None,
    batch: Annotated[list[int] | None, typer.Option("--batch", min=1, help="Images in one call; default 1.")] = None,
    opset: Annotated[int, typer.Option("--opset", help="17 is read by TensorRT 8.6 and everything newer.")] = 17,
    statistic: Annotated[str, typer.Option("--statistic", help="Statistic of the table: p50, p90 or p99.")] = "p50",
    rounds: Annotated[int, typer.Option("--rounds", min=6, help="Rounds at most.")] = 20,
    seconds: Annotated[float, typer.Option("--seconds", min=0.01, help="Measuring time per network and round.")] = 1.0,
    interval: Annotated[
        float,
        typer.Option("--interval", min=0.001, max=1, help="Stop when each median's 95 % interval is this narrow, relative."),
    ] = 0.02,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Random seed of the choice of networks.")] = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a benchmark package (kit) that measures the networks of a latency table on a target device.

    Example: autoformer profile kit --supernet runs/super --out kit
    """
    from autoformer.cli.console import print_json, print_table, progress_bar
    from autoformer.cli.words import space_to_measure
    from autoformer.export.program import board_program
    from autoformer.profiling.kits.kit import StoppingRule
    from autoformer.profiling.kits.writing import KitConfig, write_kit

    measured = space_to_measure(supernet, space, image_size)
    config = KitConfig(
        networks=networks, precisions=tuple(precision or ("fp32", "fp16")), batches=tuple(batch or (1,)), statistic=statistic,
        opset=opset, rule=StoppingRule(max_rounds=rounds, seconds=seconds, max_interval=interval), seed=seed,
    )  # fmt: skip
    with progress_bar(quiet) as progress:
        written = write_kit(measured, out, config, program=board_program("autoformer.cli.board.kit_program"), progress=progress)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    if json:
        print_json({**written.to_dict(), "bytes": size})
        return
    rows = [(network.name, "×".join(map(str, network.input_shape)), str(network.builds)) for network in written.networks]
    title = (
        f"{len(rows)} networks in {', '.join(written.precisions)}, {size / 1e6:.1f} MB; on the device: python3 board.pyz measure"
    )
    print_table(title, ("network", "images", "builds"), rows)
