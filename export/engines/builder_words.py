"""What a builder says while it builds: which attention it recognises, which layers it made, and the memory they take.

TensorRT tells much more than its answers hold when its logger listens to everything ("verbose"). A line is worth what its version
makes of it; a question that no line answers stays open. Seen in TensorRT-RTX 1.7.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoformer.export.engines.layers import EngineLayers, layers_of

ATTENTION = re.compile(r"Found (\S+) to be part of self-attention pattern")
REGION = re.compile(r"ForeignNode (\{\S+\}) metadata: ")
MEMORY = re.compile(r"(Max Scratch|Total Activation|Total Weights) Memory: (\d+) bytes")
LAYERS = "Layers:\n"  # begins the list of what was built
LAYER = re.compile(
    r"^Name: (?P<Name>.*?), LayerType: (?P<LayerType>\w*), Inputs: (?P<Inputs>.*?)(?:, Constants: .*?)?, Outputs: "
    r"(?P<Outputs>.*?), TacticName: (?P<TacticName>.*?), (?:.*?, )?Metadata: (?P<Metadata>.*)$"
)
TENSOR = re.compile(
    r"\{ Name: (?P<Name>.*?), Dimensions: \[(?P<Dimensions>[-\d,]*)\].*?Datatype: (?P<Datatype>\w+), Format: (?P<Format>.*?) \}"
)


@dataclass
class BuilderWords:
    """Listens to one build."""

    attention: set[str] = field(default_factory=set)  # ONNX nodes that it takes for parts of attention
    regions: set[str] = field(default_factory=set)  # parts of the network that one compiler made as a whole
    memory: dict[str, int] = field(default_factory=dict)  # bytes, by "Max Scratch" and so on
    layers: str = ""  # the list of what was built

    def hear(self, message: str) -> None:
        """Takes what is asked for from one message; from any thread."""
        if (found := ATTENTION.search(message)) is not None:
            self.attention.add(found[1])
        elif (found := REGION.match(message)) is not None:
            self.regions.add(found[1])
        elif (found := MEMORY.match(message)) is not None:
            self.memory[found[1]] = int(found[2])
        elif message.startswith(LAYERS):
            self.layers += message.removeprefix(LAYERS)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "attention": sorted(self.attention), "regions": sorted(self.regions), "memory": self.memory, "layers": self.layers,
        }  # fmt: skip


def layers_told(text: str, graph: Path) -> EngineLayers:
    """The layers of a list that a builder told, judged like those of an inspector. Lines of another form are passed over."""
    found = [fields.groupdict() for line in text.splitlines() if (fields := LAYER.match(line)) is not None]
    entries = [{**entry, "Inputs": _tensors(entry["Inputs"]), "Outputs": _tensors(entry["Outputs"])} for entry in found]
    return layers_of(entries, graph)


def _tensors(text: str) -> list[dict[str, Any]]:
    tensors = [found.groupdict() for found in TENSOR.finditer(text)]
    return [{**tensor, "Dimensions": [int(size) for size in tensor["Dimensions"].split(",") if size]} for tensor in tensors]
