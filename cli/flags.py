"""Options that people know from other programs: what they mean here, said where they are not taken."""

from __future__ import annotations

import difflib
import re

NOTHING = "nothing: "
# By the option's letters, without dashes: what to write instead.
ELSEWHERE = {
    "half": "export --precision fp16, or --set export.precisions=[fp32,fp16] in a run",
    "fp16": "export --precision fp16, or --set export.precisions=[fp32,fp16] in a run",
    "fp32": "export --precision fp32, or --set export.precisions=[fp32] in a run",
    "int8": "export --precision int8, or --set export.precisions=[fp32,int8] in a run",
    "precision": "--set export.precisions=[fp32,fp16,int8] in a run, with those that you want",
    "format": "--set export.formats=[onnx,tensorrt] in a run, or export --format tensorrt (tensorrt-rtx for RTX GPUs of PCs)",
    "bf16": "--set train.amp=bfloat16, while training; files are fp32, fp16 or int8",
    "dynamic": "export --batch dynamic, which is the default",
    "imgsz": "--set data.image_size=PIXELS, or finetune --image-size PIXELS",
    "image-size": "--set data.image_size=PIXELS",
    "img-size": "--set data.image_size=PIXELS, or finetune --image-size PIXELS",
    "epochs": "--set finetune.epochs=N in a recipe; run, train and finetune have --epochs",
    "batch-size": "--batch N, or --set train.batch_size=N in a training",
    "batch": "--set train.batch_size=N in a training, --set profile.batch=N in a run",
    "lr": "--set train.learning_rate=RATE",
    "learning-rate": "--set train.learning_rate=RATE",
    "workers": "--set train.workers=N for loader processes",
    "o": "--json > FILE, or the file as the last word where --help shows one",
    "out": "--json > FILE, or the file as the last word where --help shows one",
    "output": "--out",
    "output-dir": "--out",
    "save-dir": "--out",
    "project": "--out",
    "name": "--out",
    "model": "the network itself, without an option; timm:NAME for one of timm",
    "weights": "the network itself, without an option; timm:NAME@FILE for one of timm with its weights",
    "topk": "--top N",
    "top-k": "--top N",
    "set": "an option of this command, which --help lists; --set is of run, train, search, race and finetune",
    "pretrained": "--from timm:NAME, or finetune timm:NAME",
    "checkpoint": "the folder itself, without an option; a stopped training goes on by the same command",
    "resume": "nothing: the same command goes on where it stopped",
    "device": "nothing: a GPU is taken where there is one; CUDA_VISIBLE_DEVICES chooses, empty for the CPU (run has --device)",
    "gpu": "nothing: a GPU is taken where there is one, CUDA_VISIBLE_DEVICES chooses; export has --gpu for other machines",
    "source": "--data",
    "dataset": "--data",
    "data-dir": "--data",
    "verbose": "nothing: progress is shown unless --quiet",
    "trtexec": "--format tensorrt, or autoformer profile on an engine",
    "onnx": "the ONNX file itself, without an option",
    "saveEngine": "--format tensorrt --out DIR",
    "config": "the recipe itself, without an option",
    "simplify": "nothing: files are folded and checked as they are written",
    "nms": "nothing: classifiers have no boxes",
    "optimize": "nothing: files are folded as they are written",
}


def advice_on(message: str) -> str | None:
    """What to write instead of the option that an error of the command line names; None where nothing is known of it."""
    if "missing argument 'recipe'" in message.lower():
        return "no recipe is given; for photos: autoformer run --data PHOTOS; autoformer recipe list names the recipes (--help)"
    if (pairs := re.search(r"unexpected extra argument\S* \((.*)\)", message)) and "=" in pairs[1]:
        return (
            f"unexpected {pairs[1]}: options are written --name VALUE, settings of a recipe --set name=VALUE (--help lists both)"
        )
    found = re.search(r"[Nn]o such option:? '?(--?[\w-]+)", message)
    if found is None:
        return None
    words = found[1].lstrip("-")
    meant = ELSEWHERE.get(words) or ELSEWHERE.get(words.replace("_", "-"))
    if meant is None:
        near = difflib.get_close_matches(words, ELSEWHERE, 1, 0.85)
        meant = ELSEWHERE[near[0]] if near else None
    if meant is None:
        return None
    said = f"no option {found[1]} here"
    return f"{said}, leave it out: {meant.removeprefix(NOTHING)}" if meant.startswith(NOTHING) else f"{said}; write {meant}"
