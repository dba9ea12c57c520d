"""For which GPUs an engine of TensorRT-RTX is built: compute capabilities, as people write them or by names of well-known GPUs.

Sources: TensorRT-RTX's support matrix (1.0 to 1.7), its page on building ahead of time, and NVIDIA's table of compute
capabilities. Standard library only; runs on boards.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from autoformer.errors import ExportError, short

CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
EVERY = "compute capability 8.0, 8.6, 8.9, 12.0 and later"  # what an engine is for that was built for nothing in particular
TURING = "7.5"
KNOWN = ", ".join("sm" + one.replace(".", "") for one in CAPABILITIES) + ", or a name like RTX 4090 or RTX A2000"
# What a driver adds to a name: "NVIDIA GeForce RTX 3060 Laptop GPU", "RTX 4000 SFF Ada Generation", "NVIDIA A100-SXM4-80GB".
BESIDE = r"laptop|gpu|sff|tesla|\d+gb|pcie|nvl|sxm\d*|hbm\d\w?|with|max|q|maxq|design|(workstation|server)|edition"
# By the letters and digits of a name, without spaces; the first that fits. GeForce, then workstations, then small computers.
FAMILIES = (
    (r"(geforce)?rtx20[5678]0(ti|super)*|(nvidia)?titanrtx", "7.5"),
    (r"(geforce)?rtx30[5-9]0(ti|super)*", "8.6"),
    (r"(geforce)?rtx40[5-9]0(ti|super|d)*", "8.9"),
    (r"(geforce)?rtx50[5-9]0(ti|super|d)*", "12.0"),
    (r"(quadro)?rtx[3-8]000", "7.5"),
    (r"rtxa[2-6]000|rtxa(400|500|1000|5500|4500)", "8.6"),
    (r"rtx[2-6]\d?[05]00ada(generation)?", "8.9"),
    (r"rtxpro\d{3,4}(blackwell)?", "12.0"),
    (r"gb10|dgxspark", "12.1"),
)
FOREIGN = (  # NVIDIA's others, and what they are
    (r"(jetson)?(agx)?(orin|xavier|thor|nano|tx[12])\w*|sm(53|62|72|87|110|101)", "a Jetson"),
    (r"(a|h|b|gh|gb)(2|10|16|20|30|40|100|200|300|800)[gmx]?|t4g?|l(2|4|20|40s?)|v100s?|p(4|40|100)", "a GPU of data centres"),
    (r"sm(60|70|90a?|100|103)", "a GPU of data centres"),
)


def read_gpus(words: Sequence[str]) -> tuple[str, ...]:
    """Compute capabilities like "8.9" of words like "sm89", "8.9", "RTX 4090" or several of them with commas between.

    Raises `ExportError` for GPUs that TensorRT-RTX is not made for, and for what names none.
    """
    asked = [word.strip() for text in words for word in text.split(",")]
    if words and not any(asked):
        raise ExportError(f"no GPU is named; expected {KNOWN}; without any, an engine is for {EVERY}")
    return tuple(dict.fromkeys(_capability(word) for word in asked if word))


def _capability(word: str) -> str:
    plain = "".join(part for part in re.split(r"[\s_-]+", word.lower()) if not re.fullmatch(BESIDE, part))
    plain = plain.removeprefix("nvidia")
    if (numbers := re.fullmatch(r"(?:sm|compute)?(\d{1,2})\.?(\d)[af]?", plain)) is not None:
        capability = f"{numbers[1]}.{numbers[2]}"
        if capability in CAPABILITIES:
            return capability
    for pattern, capability in FAMILIES:
        if re.fullmatch(pattern, plain):
            return capability
    plain = f"sm{plain.replace('.', '')}" if re.fullmatch(r"[\d.]+", plain) else plain
    for pattern, kind in FOREIGN:
        if re.fullmatch(pattern, plain):
            raise ExportError(
                f"{short(word)} is {kind}, which TensorRT-RTX is not made for; build on the device, with --format tensorrt or "
                "the program of a bundle: python3 board.pyz build"
            )
    raise ExportError(f"GPU {short(word)} is not known; expected {KNOWN}")


def runs_on(gpus: Sequence[str], capability: str) -> bool:
    """Whether an engine that was built for these compute capabilities, or for none in particular, runs on a GPU of this one."""
    if gpus:
        return capability in gpus
    return capability in CAPABILITIES[1:] or int(capability.partition(".")[0]) > 12


def in_words(gpus: Sequence[str]) -> str:
    """For which GPUs an engine is: "sm89, sm120", or what it is for when nothing was asked."""
    return ", ".join(f"sm{capability.replace('.', '')}" for capability in gpus) or EVERY
