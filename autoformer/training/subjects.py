"""What a finetune trains: a `Subnet` of ours, or a `Classifier` of timm's. What the two differ in is told here alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

from torch import nn

from autoformer.data.parts import DataParts
from autoformer.data.preprocessing import Preprocessing
from autoformer.errors import DataError
from autoformer.networks.folders import fill_folder, load_subnet
from autoformer.networks.subnet import Subnet
from autoformer.pretrained.classifier import Classifier, fill_classifier_folder
from autoformer.pretrained.named_network import open_network
from autoformer.tensors import tensors_digest


class Subject(Protocol):
    """A network with the folder it is kept in."""

    record_name: ClassVar[str]  # of the file that is written last
    record_format: ClassVar[str]

    @property
    def identity(self) -> dict[str, Any]:
        """What it is before the training; JSON."""

    def parts_of(self, parts: DataParts) -> DataParts:
        """The parts as it takes their images. Raises `DataError` when they do not suit it."""

    def network(self, drop_path_rate: float) -> nn.Module:
        """The network to train, with stochastic depth where it has one."""

    def preprocessing(self, parts: DataParts) -> Preprocessing:
        """What becomes of an image before the trained network sees it."""

    def write(
        self, trained: nn.Module, folder: Path, preprocessing: Preprocessing, classes: tuple[str, ...], record: Mapping[str, Any]
    ) -> None:
        """Fills the folder, the record last."""

    def load(self, folder: Path) -> nn.Module:
        """The trained network of a folder, in evaluation mode."""


@dataclass(frozen=True)
class OwnNetwork:
    """A `Subnet`."""

    subnet: Subnet
    record_name: ClassVar[str] = "subnet.json"
    record_format: ClassVar[str] = "autoformer/subnet/1"

    @property
    def identity(self) -> dict[str, Any]:
        weights, architecture = tensors_digest(self.subnet.state_dict()), self.subnet.architecture.to_dict()
        return {"kind": "subnet", "weights": weights, "architecture": architecture}

    def parts_of(self, parts: DataParts) -> DataParts:
        own = self.subnet
        stored_size = own.patch_embed.img_size[0] if own.architecture.image_size is None else parts.preprocessing.image_size
        check_images(stored_size, own.in_chans, own.num_classes, parts)
        return parts

    def network(self, drop_path_rate: float) -> nn.Module:
        self.subnet.set_drop_path(drop_path_rate)
        return self.subnet

    def preprocessing(self, parts: DataParts) -> Preprocessing:
        return preprocessing_of(self.subnet, parts)

    def write(
        self, trained: nn.Module, folder: Path, preprocessing: Preprocessing, classes: tuple[str, ...], record: Mapping[str, Any]
    ) -> None:
        assert isinstance(trained, Subnet)
        fill_folder(trained, folder, preprocessing=preprocessing, classes=classes, record=dict(record))

    def load(self, folder: Path) -> nn.Module:
        return load_subnet(folder)[0]


@dataclass(frozen=True)
class TimmNetwork:
    """A `Classifier`."""

    classifier: Classifier
    record_name: ClassVar[str] = "network.json"
    record_format: ClassVar[str] = "autoformer/network/1"

    @property
    def identity(self) -> dict[str, Any]:
        own = self.classifier
        weights = tensors_digest(own.network.state_dict())
        return {"kind": "timm", "name": own.name, "arguments": dict(own.arguments), "weights": weights}

    def parts_of(self, parts: DataParts) -> DataParts:
        own = self.classifier.arguments
        check_images(parts.preprocessing.image_size, own["in_chans"], own["num_classes"], parts)
        return replace(parts, preprocessing=self.classifier.preprocessing(parts))

    def network(self, drop_path_rate: float) -> nn.Module:
        return self.classifier.with_drop_path(drop_path_rate)

    def preprocessing(self, parts: DataParts) -> Preprocessing:
        return parts.preprocessing

    def write(
        self, trained: nn.Module, folder: Path, preprocessing: Preprocessing, classes: tuple[str, ...], record: Mapping[str, Any]
    ) -> None:
        fill_classifier_folder(self.classifier, trained, folder, preprocessing=preprocessing, classes=classes, record=record)

    def load(self, folder: Path) -> nn.Module:
        return open_network(str(folder)).network


def subject_of(network: Subnet | Classifier) -> Subject:
    """What a finetune knows of `network`."""
    return OwnNetwork(network) if isinstance(network, Subnet) else TimmNetwork(network)


def preprocessing_of(subnet: Subnet, parts: DataParts) -> Preprocessing:
    """The data's preprocessing, followed by the resize to the network's own input where the search chose a smaller one."""
    size = subnet.patch_embed.img_size[0]
    return replace(parts.preprocessing, network_size=None if size == parts.preprocessing.image_size else size)


def check_images(image_size: int, in_chans: int, num_classes: int, parts: DataParts) -> None:
    """Raises `DataError` when the data do not suit a network."""
    have = (parts.preprocessing.image_size, parts.preprocessing.in_chans, len(parts.classes))
    if have != (image_size, in_chans, num_classes):
        raise DataError(
            f"{parts.source} has images of {have[0]} px, {have[1]} channels, {have[2]} classes; the network takes "
            f"{image_size} px, {in_chans} channels, {num_classes} classes"
        )
