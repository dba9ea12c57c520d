"""Data sets by the names that timm has for them: `torch/cifar10`, `hfds/NAME`, `hfids/NAME`, `tfds/NAME`, `wds/NAME`.

`data.root` says where their files lie; wherever a data set is named, `torch/cifar10@FOLDER` says the same (not for wds). Files
of torchvision and of tensorflow-datasets are not downloaded here: one line says how to get them, and what lies where then.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from autoformer.errors import DataError

PREFIXES = ("torch", "hfds", "hfids", "tfds", "wds")
WITHOUT_DEFAULT = ("torch", "wds")  # the others have a folder of their own in the user's home
PACKAGES = {"hfds": "datasets", "hfids": "datasets", "tfds": "tensorflow tensorflow-datasets", "wds": "webdataset"}
REASON = 200  # letters of another library's message

# By timm's name: what makes torchvision download the files (None: nothing does), and what lies in the folder then.
TORCHVISION: Mapping[str, tuple[str | None, str]] = {
    "cifar10": ("CIFAR10({root}, download=True)", "cifar-10-batches-py/"),
    "cifar100": ("CIFAR100({root}, download=True)", "cifar-100-python/"),
    "mnist": ("MNIST({root}, download=True)", "MNIST/raw/"),
    "kmnist": ("KMNIST({root}, download=True)", "KMNIST/raw/"),
    "fashion_mnist": ("FashionMNIST({root}, download=True)", "FashionMNIST/raw/"),
    "qmnist": ("[QMNIST({root}, train=part, download=True) for part in (True, False)]", "QMNIST/raw/"),
    "places365": (
        "[Places365({root}, part, download=True) for part in ('train-standard', 'val')]",
        "data_large_standard/ and val_large/",
    ),
    "inaturalist": (
        "[INaturalist({root}, part, download=True) for part in ('2021_train', '2021_valid')]",
        "2021_train/ and 2021_valid/",
    ),
    "imagenet": (None, "ILSVRC2012_devkit_t12.tar.gz, ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar of image-net.org"),
    "image_folder": (None, "train/CLASS/IMAGE and val/CLASS/IMAGE"),
}
SYNONYMS = {"inat": "inaturalist", "folder": "image_folder"}


def is_named(source: str) -> bool:
    """Whether `source` has the form of a name, not of a path."""
    return "/" in source and source.partition("/")[0].lower() in PREFIXES


def place_of(source: str, root: Path | None) -> tuple[str, Path | None]:
    """Name and folder of a data set; the folder of `torch/NAME@FOLDER` counts before `root`."""
    kind, _, rest = source.partition("/")
    name, _, folder = rest.partition("@")
    if kind.lower() == "wds" or not name or not folder:  # shards are counted with an @
        return source, root
    return f"{kind}/{name}", Path(folder).expanduser()


def load_split(source: str, root: Path | None, split: str) -> Any:
    """One split of a data set, as timm reads it; `source` and `root` are those of `place_of`.

    Raises `DataError` that asks for the folder where one is needed, and says how to get files that are missing.
    """
    from timm.data import create_dataset

    kind = source.partition("/")[0].lower()
    _check_name(source)
    if root is None and kind in WITHOUT_DEFAULT:
        ways = "set data.root" if kind == "wds" else f"give {source}@FOLDER, or set data.root"
        raise DataError(
            f"data set {source!r}: data.root does not say in which folder its files lie; {ways}. "
            f"{how_to_get(source, Path('FOLDER'))}"
        )
    where = str(root) if root is not None else "the default place"
    try:
        with redirect_stdout(io.StringIO()):  # timm prints beside the error that it raises
            return create_dataset(source, root=str(root) if root else None, split=split, search_split=True)
    except MemoryError:
        raise
    except ImportError as error:
        install = f"; pip install {PACKAGES[kind]}" if kind in PACKAGES else ""
        raise DataError(f"data set {source!r} needs a package that is missing ({error}){install}") from error
    except Exception as error:  # each reader has errors of its own
        line = (str(error).strip() or type(error).__name__).splitlines()[0].split(" You can ")[0][:REASON].rstrip(". ")
        raise DataError(f"data set {source!r}, split {split!r}, in {where}: {line}. {how_to_get(source, root)}") from error


def _check_name(source: str) -> None:
    """Raises `DataError` where nothing follows the prefix, or timm does not know the name among torchvision's."""
    kind, _, name = source.partition("/")
    if kind.lower() == "torch" and name.lower() not in (*TORCHVISION, *SYNONYMS):
        known = ", ".join(f"torch/{name}" for name in TORCHVISION)
        raise DataError(f"data set {source!r} is not known; known of torchvision's are {known}")
    if not name:
        raise DataError(f"data source {source!r} names no data set; expected {kind}/NAME")


def how_to_get(source: str, root: Path | None) -> str:
    """How the files of a named data set come into the folder `root`, and what lies in it then."""
    kind, _, name = source.partition("/")
    folder = "FOLDER" if root is None else str(root)
    if kind.lower() == "torch":
        name = SYNONYMS.get(name.lower(), name.lower())
        call, layout = TORCHVISION[name]
        if call is None:
            return f"Expected in it: {layout}"
        return (
            f'To get them: python -c "from torchvision.datasets import *; {call.format(root=repr(folder))}", '
            f"which makes {layout} in it"
        )
    if kind.lower() == "tfds":
        place = "" if root is None else f", data_dir={folder!r}"
        call = f"tensorflow_datasets.builder({name!r}{place}).download_and_prepare()"
        return f'To get it: python -c "import tensorflow_datasets; {call}"'
    if kind.lower() == "wds":
        return "Expected in it: _info.json and the .tar files that it names; plain .tar files of class folders need no name"
    return "Check the name, and the network if it is to be downloaded; a folder of Parquet files is named hfds/FOLDER"
