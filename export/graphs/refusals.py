"""Why an ONNX file is not read or not run, as one line: what ONNX Runtime, onnx and protobuf say, in words for users.

ONNX Runtime's messages may begin with the file, line and signature of a C++ function, and the reason comes last; a file may be
valid and newer than what reads it. Runs on boards: standard library only.
"""

from __future__ import annotations

import re
from pathlib import Path

from autoformer.errors import CheckpointError
from autoformer.file_kinds import stand_in

ONE_FILE_BYTES = (1 << 31) - 1  # what protobuf reads of one message
BEGINS = re.compile(r"\[ONNXRuntimeError\] : -?\d+ : \w+ : ")
LOADS = re.compile(r"Load model from .*? failed: ?")
SOURCE = re.compile(r"\S*\.(?:cc|cpp|cu|h|hpp):\d+ ")  # followed by a signature
SIGNATURE_ENDS = re.compile(r"(?: (?:const|noexcept|&&?))*(?: \[with [^\]]*\])? *")
NEWER = (  # what is newer, the version of the file, and the newest that is read
    ("IR version", re.compile(r"Unsupported model IR version: (?P<has>\d+), max supported IR version: (?P<reads>\d+)")),
    ("IR version", re.compile(r"Your model ir_version (?P<has>\d+) is higher than the checker's \((?P<reads>\d+)\)")),
    ("opset", re.compile(r"Opset (?P<has>\d+) is under development.* is till opset (?P<reads>\d+)")),
)
DAMAGED = re.compile(
    r"protobuf parsing failed|error parsing message|wire format|unable to parse proto|no graph was found|ir_version set properly",
    re.I,
)


def reason_of(error: object, letters: int = 300) -> str:
    """What an error says, on one line: without C++ signatures; of a long one the beginning and the end, where the reason is."""
    text = " ".join(str(error).split())
    text = BEGINS.sub("", text)
    text = LOADS.sub("", text)
    while (found := SOURCE.search(text)) is not None:
        end = _signature_end(text, found.end())
        if end is None:
            break
        text = text[: found.start()] + text[end:]
    text = text.strip() or type(error).__name__
    if len(text) <= letters:
        return text
    begin = letters // 3
    return f"{text[:begin]} … {text[begin - letters :]}"


def _signature_end(text: str, start: int) -> int | None:
    """Where the signature that begins at `start` ends: behind the parenthesis that closes its arguments."""
    depth = 0
    for place in range(max(start, text.find("(", start)), len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        after = text[place + 1 : place + 2]
        if depth == 0 and text[place] == ")" and after in ("", " "):  # else a lambda, or a call operator
            found = SIGNATURE_ENDS.match(text, place + 1)
            return found.end() if found else place + 1
    return None


def refusal(path: Path, error: object, reader: str, *, otherwise: str) -> CheckpointError:
    """The error about a file that `reader` (with its version) did not take: no ONNX, newer, damaged, too large, `otherwise`."""
    text = " ".join(str(error).split())
    for what, pattern in NEWER:
        if (found := pattern.search(text)) is not None:
            has, reads = found["has"], found["reads"]
            return CheckpointError(
                f"{path} is of {what} {has}, newer than {reader} reads (up to {reads}); install a newer one, or write the file "
                f"with {what} {reads} or below"
            )
    if (kind := stand_in(path)) is not None:
        return CheckpointError(f"{path} {kind}; expected an ONNX file")
    if not DAMAGED.search(text):
        return CheckpointError(f"{path} {otherwise}: {reason_of(error)}")
    if path.is_file() and path.stat().st_size > ONE_FILE_BYTES:
        return CheckpointError(
            f"{path} is larger than the 2 GB that one ONNX file may have; write it with its weights in a file beside it"
        )
    return CheckpointError(f"{path} is truncated or not an ONNX file: {reason_of(error)}; copy or export it again")
