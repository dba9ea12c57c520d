"""`autoformer doctor`."""

from __future__ import annotations

import typer

from autoformer.cli.options import Json


def doctor(json: Json = False) -> None:
    """Say what works here, and what to install for the rest; ends with 1 where what all commands need does not work."""
    from autoformer.cli.console import print_json, print_table, say
    from autoformer.profiling.profiles.doctor import examine

    findings = examine()
    lacking = [finding.what for finding in findings if finding.needed and not finding.works]
    if json:
        print_json([finding.to_dict() for finding in findings])
    else:
        rows = [(finding.what, "yes" if finding.works else "no", finding.found, finding.advice) for finding in findings]
        print_table("what works here", ("", "", "found", "to get it"), rows)
        if lacking:
            say(f"needed and not working: {', '.join(lacking)}")
    if lacking:
        raise typer.Exit(1)
