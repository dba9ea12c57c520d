"""Images that many networks look at: decoded once, kept on the supernet's device where they fit, normalised there.

A search asks for the guesses of a thousand networks on the same images. Loading them each time, or sending them to the
device each time, would take longer than the networks do.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from autoformer.architecture import Architecture
from autoformer.evaluate import EvaluationSet, resize_images
from autoformer.supernet import Supernet

Precision = Literal["fp32", "bf16", "fp16"]
TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
SHARE_OF_FREE = 0.5  # of the device's memory that images may take; the network needs the rest


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
        # The same steps in the same order as `Preprocessing.normalise`, so that the values are the same.
        self.mean, self.std = (
            torch.tensor(values, dtype=torch.float32, device=self.device)[:, None, None]
            for values in (images.preprocessing.mean, images.preprocessing.std)
        )

    def guesses(self, architecture: Architecture, portion: slice = slice(None)) -> NDArray[np.int64]:
        """The class that the subnet gives each image of `portion`, [n]."""
        network, found = self.supernet, []
        size = network.space.image_size_of(architecture)
        training = network.training
        network.eval()
        low = self.precision != "fp32"
        with torch.inference_mode(), torch.autocast(self.device.type, TYPES.get(self.precision), enabled=low):
            for pixels in self.pixels[portion].split(self.batch_size):
                images = (pixels.to(self.device, non_blocking=True).to(torch.float32) / 255 - self.mean) / self.std
                images = resize_images(resize_images(images, self.size), size)
                found.append(network(images, architecture).argmax(-1))
        network.train(training)
        return torch.cat(found).cpu().numpy()
