"""Running a network on images: which class it gives each. What that is worth as a number is the business of `metric`.

`predictions` takes any function from prepared images to logits, and decoded images from the CPU. `ResidentImages` is for the
search, which asks hundreds of subnets about the same images: they lie on the device, where it has room.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autoformer.architecture import Architecture
from autoformer.data.parts import Part
from autoformer.data.preprocessing import Preprocessing, normalised, resize_matrix
from autoformer.networks.supernet import Supernet
from autoformer.progress import Progress, silent

TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
SHARE_OF_FREE = 0.5  # of the device's memory that images may take; the network needs the rest


@dataclass(frozen=True)
class EvaluationSet:
    """Images decoded once and kept, uint8 [n, H, W, C], with their labels [n]."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    preprocessing: Preprocessing
    digest: str

    @classmethod
    def of(cls, part: Part, preprocessing: Preprocessing) -> EvaluationSet:
        """Decodes every image of `part`. Raises `DataError` naming one that cannot be read."""
        return cls(part.pixels(preprocessing), part.labels, preprocessing, part.digest)

    def __len__(self) -> int:
        return len(self.labels)

    def chosen(self, order: NDArray[np.int64]) -> EvaluationSet:
        """The images with these numbers, in this order."""
        return replace(self, pixels=self.pixels[order], labels=self.labels[order])

    def share(self, index: int, count: int) -> EvaluationSet:
        """Every `count`-th image from `index` on: what one of `count` processes evaluates."""
        return replace(self, pixels=self.pixels[index::count], labels=self.labels[index::count])

    def batches(self, batch_size: int) -> Iterator[NDArray[Any]]:
        """Images as the preprocessing's input, [b, C, H, W], in order: normalised float32, or uint8 pixels."""
        for start in range(0, len(self), batch_size):
            yield self.preprocessing.prepare(self.pixels[start : start + batch_size])

    def images(self, count: int | None = None) -> NDArray[Any]:
        """The first `count` images (all without a count) as the preprocessing's input, [n, C, H, W]."""
        return self.preprocessing.prepare(self.pixels[:count])


Predict = Callable[[NDArray[np.float32]], NDArray[np.float32]]  # images [b, C, H, W] to logits [b, classes]


def predictions(predict: Predict, images: EvaluationSet, batch_size: int = 256, progress: Progress = silent) -> NDArray[np.int64]:
    """The class `predict` gives each image, [n]."""
    found: list[NDArray[np.int64]] = []
    for batch in images.batches(batch_size):
        found.append(predict(batch).argmax(-1).astype(np.int64))
        progress("evaluate", sum(map(len, found)), len(images))
    return np.concatenate(found)


class Normalise:
    """uint8 pixels [B, C, H, W] on a device as normalised values: those of `Preprocessing.normalise`, before it resizes."""

    def __init__(self, preprocessing: Preprocessing, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        mean, std = (torch.tensor(values, device=device, dtype=dtype) for values in preprocessing.normalisation)
        self.mean, self.std, self.dtype = mean.view(-1, 1, 1), std.view(-1, 1, 1), dtype

    def __call__(self, pixels: Tensor) -> Tensor:
        return cast(Tensor, normalised(pixels.to(self.dtype), self.mean, self.std))


def resize_images(images: Tensor, size: int) -> Tensor:
    """Normalised images [B, C, H, W] at another side in pixels, by the rule that deployment uses (`resize_matrix`)."""
    if images.shape[-1] == size:
        return images
    resize = torch.from_numpy(resize_matrix(images.shape[-1], size)).to(images)
    return resize @ images @ resize.T


def predict_with(network: nn.Module, architecture: Architecture | None = None) -> Predict:
    """A torch network as a function of arrays; a `Supernet` takes the architecture to run. Evaluation mode while it runs."""

    def predict(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        weight = next(network.parameters())
        images = torch.from_numpy(batch).to(weight.device, weight.dtype)
        training = network.training
        network.eval()
        with torch.inference_mode():
            if isinstance(network, Supernet):
                assert architecture is not None, "a supernet needs the architecture to run"
                logits = network(resize_images(images, network.space.image_size_of(architecture)), architecture)
            else:
                logits = network(images)
        network.train(training)
        result: NDArray[np.float32] = logits.float().cpu().numpy()
        return result

    return predict


Precision = Literal["fp32", "bf16", "fp16"]


def precision_on(device: torch.device, wanted: Literal["auto", "fp32", "bf16", "fp16"] = "auto") -> Precision:
    """The precision to compute in on `device`; "auto" is fp32 on a CPU, on a GPU bf16 where it has it, else fp16."""
    if wanted != "auto":
        return wanted
    if device.type != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported() else "fp16"


class ResidentImages:
    """`images` for the subnets of `supernet`, which is in evaluation mode whenever it is asked."""

    def __init__(self, images: EvaluationSet, supernet: Supernet, precision: Precision, batch_size: int = 256) -> None:
        self.supernet, self.precision, self.batch_size = supernet, precision, batch_size
        self.device = next(supernet.parameters()).device
        pixels = torch.from_numpy(np.ascontiguousarray(np.moveaxis(images.pixels, -1, 1)))  # uint8 [n, C, H, W]
        if self.device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self.device)
            pixels = pixels.to(self.device) if pixels.nbytes < SHARE_OF_FREE * free else pixels.pin_memory()
        self.pixels, self.size = pixels, images.preprocessing.input_size
        self.normalise = Normalise(images.preprocessing, self.device)

    def predictions(self, architecture: Architecture, portion: slice = slice(None)) -> NDArray[np.int64]:
        """The class that the subnet gives each image of `portion`, [n]."""
        network, found = self.supernet, []
        size = network.space.image_size_of(architecture)
        training = network.training
        network.eval()
        low = self.precision != "fp32"
        with torch.inference_mode(), torch.autocast(self.device.type, TYPES.get(self.precision), enabled=low):
            for pixels in self.pixels[portion].split(self.batch_size):
                images = self.normalise(pixels.to(self.device, non_blocking=True))
                images = resize_images(resize_images(images, self.size), size)
                found.append(network(images, architecture).argmax(-1))
        network.train(training)
        return torch.cat(found).cpu().numpy()
