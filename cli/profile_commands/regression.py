"""`autoformer profile compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoformer.cli.options import Json

REGRESSION = 1  # exit code of a significant regression


def compare(
    before: Annotated[Path, typer.Argument(metavar="A.json", help="A file of `profile run --out`.")],
    after: Annotated[Path, typer.Argument(metavar="B.json", help="Another, of the same networks.")],
    max_regression: Annotated[str, typer.Option("--max-regression", help="By how much B may be slower.")] = "5%",
    other_device: Annotated[
        bool, typer.Option("--other-device", help="Compare times of different devices, threads or settings.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Also exit 1 if a comparison is inconclusive or B lacks a network.")
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File to write: .html, .md or .json.")] = None,
    json: Json = False,
) -> None:
    """Compare two profiles; exit 1 when B is significantly slower than permitted.

    Example: autoformer profile compare before.json after.json --max-regression 5%
    """
    from autoformer.cli.console import note, print_json, print_table
    from autoformer.files import refuse_existing_file
    from autoformer.parsing import percentage
    from autoformer.profiling.measuring.verdict import INCONCLUSIVE
    from autoformer.profiling.profiles.batch_sweep import load_profiles
    from autoformer.profiling.profiles.regression import compare_profiles
    from autoformer.profiling.reports import comparison_page, page

    if out is not None:
        page.check_suffix(out)
        refuse_existing_file(out)
    permitted = percentage(max_regression)
    found = compare_profiles(load_profiles(before), load_profiles(after), permitted=permitted, other_device=other_device)
    if out is not None:
        page.save(comparison_page.regression_page(found), out)
    if json:
        print_json(found.to_dict())
    else:
        columns, rows = comparison_page.RATIO_COLUMNS, comparison_page.ratio_table(found)
        print_table(comparison_page.ratio_title(found), columns, rows)
        for which, names in (("A", found.only_before), ("B", found.only_after)):
            for name in names:
                note(f"only in {which}: {name}")
    inconclusive = bool(found.only_before) or any(ratio.verdict == INCONCLUSIVE for ratio in found.ratios)
    if found.regressions or (strict and inconclusive):
        raise typer.Exit(REGRESSION)
