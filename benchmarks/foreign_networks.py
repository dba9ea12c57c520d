"""Networks of others all the way: `timm:NAME@FILE`, exported, bundled, verified by the runtime of a board, compared.

    python benchmarks/foreign_networks.py --work runs/foreign --opsets 17 --board-python board/bin/python --out FILE

Makes random networks of timm with own classes, fits each classifier in closed form to generated pictures (so that accuracy
means something without a training), and takes them through the commands: export in fp32, fp16 and int8 at each opset, `bundle`,
`board.pyz verify` under `--board-python` (an environment with numpy, Pillow and onnxruntime alone), `compare`. Each row is
appended to `--out` when it is there, and rows that are there are not repeated, so that each opset can have a board of its own.
Prints the table, with a reason wherever something was not delivered.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from autoformer.export.manifest import Manifest
from autoformer.files import read_json, write_json
from autoformer.pretrained.named_network import open_network

NETWORKS: dict[str, dict[str, Any]] = {  # with what is not timm's own; the others take no image size
    "levit_128s": {},
    "efficientvit_b0": {},
    "edgenext_xx_small": {},
    "eva02_tiny_patch14_224": {"img_size": 112},
    "mobilenetv4_conv_small": {},
    "vit_tiny_r_s16_p8_224": {"img_size": 128},
}
PRECISIONS = ("fp32", "fp16", "int8")
CLASSES, PER_CLASS, SIDE = 4, 120, 48
FITTED = 160  # images that classifiers are fitted to
BATCH = 16
ORT_VERSION = "import onnxruntime, platform; print(platform.python_version(), onnxruntime.__version__)"


def write_pictures(folder: Path) -> list[Path]:
    """Stripes of four colours and widths under noise, one folder a class."""
    rng, found = np.random.default_rng(5), []
    for label in range(CLASSES):
        for index in range(PER_CLASS):
            values = np.zeros((SIDE, SIDE, 3))
            values[..., label % 3], values[..., (label + 1) % 3] = 200, 60 + 50 * (label == 3)
            values[((np.arange(SIDE) + rng.integers(SIDE)) // (2 + label)) % 2 == 0] *= 0.6
            path = folder / f"class{label}" / f"{index:03d}.png"
            found.append(path)
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = values + rng.normal(0, 40, values.shape)
                Image.fromarray(pixels.clip(0, 255).astype("uint8")).save(path)
    return found


def write_network(name: str, path: Path, pictures: list[Path]) -> None:
    """Weights of a random network whose classifiers know the pictures; the file holds tensors alone, as trainings leave them."""
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=CLASSES, **NETWORKS[name])
    save_file(network.state_dict(), path)
    prepare = open_network(f"timm:{name}@{path}").preprocessing
    chosen = pictures[:: max(1, len(pictures) // FITTED)]
    images = torch.from_numpy(np.stack([prepare(Image.open(picture)) for picture in chosen]))
    labels = torch.tensor([int(picture.parent.name.removeprefix("class")) for picture in chosen])
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.reset_running_stats()
                module.momentum = None  # the mean of all passes, whatever stood there before
        network.train()
        for _ in range(8):
            network(images[torch.randperm(len(images))[:BATCH]])
        network.eval()
        heads = network.pretrained_cfg["classifier"]
        for head in [heads] if isinstance(heads, str) else heads:
            layer = network.get_submodule(head)
            _fit(layer, _given(network, layer, images), labels)
    save_file({key: tensor.contiguous() for key, tensor in network.state_dict().items()}, path)


def _given(network: nn.Module, layer: nn.Module, images: Tensor) -> Tensor:
    """What a layer is given for the images [n, width]."""
    found: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, given: found.append(given[0]))
    for start in range(0, len(images), BATCH):
        network(images[start : start + BATCH])
    hook.remove()
    return torch.cat(found).double()


def _fit(layer: Any, features: Tensor, labels: Tensor) -> None:
    """Ridge regression of the labels, in its dual form: there are fewer images than features."""
    wanted = nn.functional.one_hot(labels, CLASSES).double() * 8 - 2
    mean, target = features.mean(0), wanted.mean(0)
    centred = features - mean
    kernel = centred @ centred.T
    kernel += 1e-2 * kernel.diagonal().mean() * torch.eye(len(kernel), dtype=torch.float64)
    weight = (centred.T @ torch.linalg.solve(kernel, wanted - target)).T
    layer.weight.copy_(weight)
    layer.bias.copy_(target - weight @ mean)


def command(*words: str) -> tuple[int, str]:
    """Runs one of the tool's commands; gives its exit code and last line of errors."""
    done = subprocess.run([sys.executable, "-m", "autoformer.cli", *words], capture_output=True, text=True)
    return done.returncode, (done.stderr.strip().splitlines() or [""])[-1]


def row(name: str, opset: int, work: Path, board: str) -> dict[str, Any]:
    """One network at one opset, from its weights to the verdict of the board."""
    started = time.monotonic()
    weights, data = work / f"{name}.safetensors", work / "pictures"
    if not weights.exists():
        write_network(name, weights, write_pictures(data))
    out, bundle, found = work / f"{name}-{opset}", work / f"{name}-{opset}-bundle", work / f"{name}-{opset}.json"
    entry: dict[str, Any] = {"network": name, "opset": opset}
    asked = [word for precision in PRECISIONS for word in ("--precision", precision)]
    if not out.exists():
        code, said = command(
            "export", f"timm:{name}@{weights}", "--data", str(data), "--out", str(out), *asked, "--format", "onnx",
            "--opset", str(opset), "--no-measure", "--quiet", "--calibration-images", "48",
        )  # fmt: skip
        if not out.exists():
            return entry | {"failed": f"export: exit {code}, {said}"}
    manifest = Manifest.load(out)
    entry["params"], entry["image_size"] = manifest.params, manifest.preprocessing.input_size
    entry["export"] = {file.precision: [file.status, file.reason, file.correct] for file in manifest.artefacts}
    if not bundle.exists():
        code, said = command("bundle", str(out), "--out", str(bundle), "--quiet")
        if code:
            return entry | {"failed": f"bundle: exit {code}, {said}"}
    found.unlink(missing_ok=True)
    ran = subprocess.run([board, str(bundle / "board.pyz"), "verify", "--out", str(found)], capture_output=True, text=True)
    entry["verify"] = {"exit": ran.returncode, "said": (ran.stderr.strip().splitlines() or [""])[-1][:300]}
    if found.exists():
        entry["verify"] |= read_json(found)["answer"]
    compared = work / f"{name}-{opset}-compared.json"
    if not compared.exists():
        words = ("--data", str(data), "--seconds", "0.2", "--out", str(compared), "--quiet")
        code, said = command("compare", str(out), f"timm:{name}@{weights}", *words)
        if not compared.exists():
            return entry | {"failed": f"compare: exit {code}, {said}"}
    entry["compare"] = read_json(compared)
    return entry | {"seconds": round(time.monotonic() - started, 1)}


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table, and below it why a file is not there or not confirmed."""
    lines, reasons = (
        ["| network | px | opset | Python, ONNX Runtime | " + " | ".join(PRECISIONS) + " | compare |", "|---" * 8 + "|"],
        [],
    )
    for entry in rows:
        where = f"{entry['network']}, opset {entry['opset']}"
        if "failed" in entry:
            reasons.append(f"{where}: {entry['failed']}")
        cells = []
        for precision in PRECISIONS:
            status, reason, _ = entry.get("export", {}).get(precision, ["–", "", None])
            verified = entry.get("verify", {}).get("artefacts", {}).get(f"onnx {precision}", {})
            cells.append(f"{status}, {verified.get('status', 'not verified')}" if status == "exported" else status)
            if status not in ("exported", "–"):
                reasons.append(f"{where}, {precision}: {status}, {reason}")
            elif status == "exported" and verified.get("status") != "matches":
                said = verified.get("reason") or entry.get("verify", {}).get("said")
                reasons.append(f"{where}, {precision} on the board: {said}")
        compared = "yes" if "compare" in entry else "no"
        size = entry.get("image_size", "–")
        lines.append(
            f"| {entry['network']} | {size} | {entry['opset']} | {entry['board']} | " + " | ".join([*cells, compared]) + " |"
        )
    return "\n".join([*lines, "", *(f"- {reason}" for reason in reasons)])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--opsets", type=int, nargs="+", default=[17, 20])
    parser.add_argument("--work", type=Path, required=True, help="folder for pictures, weights, exports and bundles")
    parser.add_argument("--board-python", default=sys.executable, help="interpreter that verifies the bundles")
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the rows")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    version = subprocess.run([options.board_python, "-c", ORT_VERSION], capture_output=True, text=True, check=True)
    record = read_json(options.out) if options.out.exists() else {"rows": []}
    board = version.stdout.strip()  # of Python, of ONNX Runtime
    done = {(entry["network"], entry["opset"]) for entry in record["rows"]}
    for name in options.networks:
        for opset in options.opsets:
            if (name, opset) in done:
                continue
            print(f"{name}, opset {opset}", file=sys.stderr, flush=True)
            record["rows"].append(row(name, opset, options.work, options.board_python) | {"board": board})
            write_json(record, options.out)
    print(markdown(record["rows"]))


if __name__ == "__main__":
    main()
