"""`autoformer doctor`."""

from __future__ import annotations

from autoformer.cli.options import Json


def doctor(json: Json = False) -> None:
    """Say what works on this machine, and what to install for the rest."""
    from autoformer.cli.console import print_json, print_table
    from autoformer.profiling.profiles.doctor import examine

    findings = examine()
    if json:
        print_json([finding.to_dict() for finding in findings])
        return
    rows = [(finding.what, "yes" if finding.works else "no", finding.found, finding.advice) for finding in findings]
    print_table("what works here", ("", "", "found", "to get it"), rows)
