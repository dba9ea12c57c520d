"""NVIDIA's own Python bindings of TensorRT, on a machine without TensorRT: what they offer, and their classes to look at.

The binding wheels are on the package index; the libraries they load are not, so they are given empty ones. Classes, methods,
keywords and enums are then the real ones; only what makes objects fails. Nothing is installed: each version lies in a folder of
its own.

    python -m tests.support.tensorrt_bindings .venv/tensorrt-bindings            downloads what is missing (5 MB)
    python -m tests.support.tensorrt_bindings .venv/tensorrt-bindings --listing  writes tests/data/tensorrt_api.json anew
    python -m tests.support.tensorrt_bindings .venv/tensorrt-bindings --real-8.6 downloads 8.6.0 and its real libraries (820 MB),
                                                                         the only such wheel; it is for Python 3.10
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

WHEELS = {
    "8.6.1": "tensorrt-bindings",
    "10.3.0": "tensorrt-cu12-bindings",
    "10.16.1.11": "tensorrt-cu12-bindings",
    "11.4.0.106": "tensorrt-cu12-bindings",
}
REAL = "8.6.0"
LISTED = ("8.6.1", "10.3.0", "11.4.0.106")  # what the fake is made from, beside TensorRT-RTX
RTX = "1.7.1.116"  # of TensorRT-RTX, which is there whole: `make tensorrt-rtx`
LISTING = Path(__file__).parents[1] / "data" / "tensorrt_api.json"
FOLDER = Path(__file__).parents[2] / ".venv" / "tensorrt-bindings"
CLASSES = (
    "Builder", "BuilderFlag", "ComputeCapability", "DataType", "DynamicShapesKernelSpecializationStrategy", "EngineInspector",
    "IBuilderConfig", "ICudaEngine", "IExecutionContext", "IHostMemory", "ILayer", "ILogger", "INetworkDefinition",
    "IOptimizationProfile", "IProfiler", "IProgressMonitor", "IRuntimeConfig", "ISerializationConfig",
    "ITensor", "ITimingCache", "LayerInformationFormat", "LayerType", "MemoryPoolType", "NetworkDefinitionCreationFlag",
    "OnnxParser", "OnnxParserRefitter", "ParserError", "PreviewFeature", "ProfilingVerbosity", "Refitter", "Runtime",
    "SerializationFlag", "TensorIOMode", "Weights",
)  # fmt: skip
FUNCTIONS = (
    "createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL", "createNvOnnxParser_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL", "getBuilderPluginRegistry", "getInferLibVersion", "getNvOnnxParserVersion",
    "getPluginRegistry", "initLibNvInferPlugins",
    # of parsers that 8.6 still had
    "_ZN11nvuffparser15createUffParserEv", "_ZN11nvuffparser8FieldMapC1EPKcPKvNS_9FieldTypeEi",
    "_ZN14nvcaffeparser117createCaffeParserEv", "_ZN14nvcaffeparser123shutdownProtobufLibraryEv",
)  # fmt: skip


def fetch(version: str, folder: Path) -> None:
    """Downloads the wheel of `version` into `folder`/`version`, with empty libraries beside it. Nothing where it is."""
    target = folder / version
    if (target / "tensorrt").is_dir():
        return
    with tempfile.TemporaryDirectory() as temporary:
        wanted = f"{WHEELS[version]}=={version}"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", temporary, wanted]
        subprocess.run(command, check=True)
        (wheel,) = Path(temporary).glob("*.whl")
        zipfile.ZipFile(wheel).extractall(target)
        source = Path(temporary) / "empty.c"
        source.write_text("".join(f"void* {name}() {{ return 0; }}\n" for name in FUNCTIONS))
        (target / "lib").mkdir(exist_ok=True)
        major = version.split(".")[0]
        for name in ("nvinfer", "nvinfer_plugin", "nvonnxparser", "nvparsers"):
            library = f"lib{name}.so.{major}"
            options = ["-shared", "-fPIC", f"-Wl,-soname,{library}", "-o", str(target / "lib" / library)]
            subprocess.run([os.environ.get("CC", "gcc"), *options, str(source)], check=True)
    (target / "tensorrt").mkdir()
    (target / "tensorrt" / "__init__.py").write_text(
        "import sys\n\nimport tensorrt_bindings\n\nsys.modules['tensorrt'] = tensorrt_bindings\n"
    )


def fetch_real(folder: Path) -> None:
    """Downloads TensorRT 8.6.0 with its libraries, all but that of plugins, which needs much of CUDA; we use no plugin."""
    target = folder / REAL
    if (target / "lib").is_dir():
        return
    with tempfile.TemporaryDirectory() as temporary:
        options = ["--python-version", "3.10", "--only-binary", ":all:", "--platform", "manylinux_2_17_x86_64"]
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *options, "--dest", temporary]
        subprocess.run([*command, f"tensorrt=={REAL}"], check=True)
        (wheel,) = Path(temporary).glob("*.whl")
        zipfile.ZipFile(wheel).extractall(target)
        (target / "tensorrt" / "libnvinfer_plugin.so.8").unlink()
        source, library = Path(temporary) / "empty.c", "libnvinfer_plugin.so.8"
        source.write_text("int initLibNvInferPlugins(void* logger, const char* name) { return 1; }\n")
        options = ["-shared", "-fPIC", f"-Wl,-soname,{library}", "-o", str(target / "tensorrt" / library)]
        subprocess.run([os.environ.get("CC", "gcc"), *options, str(source)], check=True)
    (target / "tensorrt").rename(target / "lib")
    (target / "tensorrt").symlink_to("lib")


def run_with(version: str, folder: Path, *arguments: str, python: str = sys.executable) -> str:
    """What a Python with TensorRT `version` prints, started with `arguments`."""
    here = ":".join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    paths = {"PYTHONPATH": f"{folder / version}:{here}", "LD_LIBRARY_PATH": str(folder / version / "lib")}
    done = subprocess.run([python, *arguments], env={**os.environ, **paths}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def listing(trt: Any) -> dict[str, Any]:
    """The classes of `CLASSES` that this module has: enum members, or methods with their parameters, and properties.

    A method has a list per overload; a parameter that may be left out ends in "=". A property says whether it can be set.
    """
    found: dict[str, Any] = {}
    for name in CLASSES:
        if hasattr(trt, name):
            found[name] = _class(getattr(trt, name))
    found["ILogger.Severity"] = _class(trt.ILogger.Severity)
    return found


def _class(kind: Any) -> dict[str, Any]:
    if hasattr(kind, "__members__"):
        return {"enum": {name: int(member) for name, member in sorted(kind.__members__.items())}}
    methods, properties = {}, {}
    for name in sorted(dir(kind)):
        if name.startswith("_") and name not in ("__init__", "__len__"):
            continue
        value = getattr(kind, name)
        if isinstance(value, property):
            properties[name] = value.fset is not None
        elif callable(value) and not isinstance(value, type):
            methods[name] = _overloads(name, value.__doc__ or "")
    return {"methods": methods, "properties": properties}


def _overloads(name: str, documented: str) -> list[list[str]]:
    """The parameters of each overload, from the signatures that pybind writes into the text."""
    signatures = re.findall(rf"^(?:\d+\. )?{name}\((self: .*)\) -> ", documented, re.MULTILINE)
    return [[_parameter(word) for word in _split(signature)[1:]] for signature in signatures]


def _parameter(word: str) -> str:
    return word.split(":")[0].strip() + ("=" if " = " in word else "")


def _split(signature: str) -> list[str]:
    """At the commas that stand outside brackets."""
    depth, words = 0, [""]
    for letter in signature:
        depth += (letter in "[(<") - (letter in "])>")
        if letter == "," and depth == 0:
            words.append("")
        else:
            words[-1] += letter
    return words


@cache
def listing_of(version: str, folder: Path) -> tuple[list[str], dict[str, Any]]:
    """The names of `version` at the top, and its listing, from its own bindings."""
    module = "tensorrt_rtx" if version == RTX else "tensorrt"
    program = f"import json, {module} as t, tests.support.tensorrt_bindings as b; print(json.dumps([dir(t), b.listing(t)]))"
    names, found = json.loads(run_with(version, folder, "-c", program))
    return names, found


def main() -> None:
    """Downloads the wheels; writes the listing when asked to."""
    if {"-h", "--help"} & set(sys.argv):
        print(__doc__)
        return
    folder = Path(next((word for word in sys.argv[1:] if not word.startswith("-")), FOLDER))
    for version in WHEELS:
        fetch(version, folder)
    if "--real-8.6" in sys.argv:
        fetch_real(folder)
    if "--listing" in sys.argv:
        found = {version: listing_of(version, folder)[1] for version in (RTX, *LISTED)}
        classes = {
            version: {name: json.dumps(entry, sort_keys=True) for name, entry in entries.items()}
            for version, entries in found.items()
        }
        lines = [
            f'"{version}": {{\n' + ",\n".join(f'"{name}": {text}' for name, text in sorted(entries.items())) + "\n}"
            for version, entries in classes.items()
        ]
        LISTING.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
