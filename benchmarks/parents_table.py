"""Which of timm's pretrained vision transformers become a supernet, and what the others would need.

    python benchmarks/parents_table.py                     # the table, by what they are
    python benchmarks/parents_table.py --out docs/parents.md   # writes it between the marks of that file
    python benchmarks/parents_table.py --names             # every name with its verdict

Networks are sketches on the device "meta", of shapes alone; nothing is downloaded. Minutes on one core.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator
from pathlib import Path

import timm
import torch
from timm.models import is_model_in_modules

from autoformer.pretrained.vit_features import missing_features

# timm's modules of vision transformers of one resolution.
MODULES = ("vision_transformer", "deit", "eva", "beit", "vision_transformer_hybrid", "vision_transformer_relpos")
BEGIN, END = "<!-- table of benchmarks/parents_table.py -->", "<!-- end of the table -->"


def names() -> list[str]:
    """timm's names with pretrained weights, in these modules."""
    return [name for name in timm.list_models(pretrained=True) if is_model_in_modules(name.split(".")[0], MODULES)]


def verdicts() -> Iterator[tuple[str, list[str]]]:
    """Each name with what the network has and ours lack."""
    for name in names():
        with warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("ignore")
            yield name, list(dict.fromkeys(missing_features(timm.create_model(name))))


def table(found: dict[str, list[str]]) -> str:
    """Rows of architectures, one per verdict and module, as Markdown."""
    accepted = [name for name, missing in found.items() if not missing]
    lines = [
        f"Of {len(found)} names of timm {timm.__version__} with pretrained weights {len(accepted)} are accepted.",
        "",
        "| what it would need first | names | for example |",
        "|---|---:|---|",
    ]
    reasons: dict[str, list[str]] = {}
    for name, missing in found.items():
        if missing:
            reasons.setdefault(missing[0], []).append(name)
    for reason, those in sorted(reasons.items(), key=lambda entry: (-len(entry[1]), entry[0])):
        lines.append(f"| {reason} | {len(those)} | `{those[0]}` |")
    lines += ["", "Accepted, by architecture and number of pretrained weights:", ""]
    kinds: dict[str, int] = {}
    for name in accepted:
        kinds[name.split(".")[0]] = kinds.get(name.split(".")[0], 0) + 1
    lines.append(", ".join(f"`{kind}`" + (f" ({count})" if count > 1 else "") for kind, count in kinds.items()))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="a Markdown file with the two marks; default: print")
    parser.add_argument("--names", action="store_true", help="print every name with its verdict")
    arguments = parser.parse_args()
    found = dict(verdicts())
    if arguments.names:
        for name, missing in found.items():
            print(f"{name}: {'; '.join(missing) or 'accepted'}")
    if arguments.out is None:
        print(table(found))
        return
    before, _, rest = arguments.out.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    arguments.out.write_text(f"{before}{BEGIN}\n{table(found)}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
