"""Hugging Face's Hub, where timm has its weights: asked once whether it answers, before its client asks for minutes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from huggingface_hub import constants, get_session, try_to_load_from_cache
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

from autoformer.errors import short

WAIT_S = 5.0  # for an answer, whatever it says
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # files that hold them there
NOT_STORED = (LocalEntryNotFoundError, OfflineModeIsEnabled)  # what its client raises where it may ask nobody


def silence_of_hub() -> str | None:
    """Why the Hub cannot be asked; None: it answers."""
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        get_session().head(constants.ENDPOINT, timeout=WAIT_S)
    except Exception as error:  # the client's library has changed, and its errors with it
        return short(" ".join(str(error).split()) or type(error).__name__)
    return None


def is_stored(place: str, cache: Path | None = None) -> bool:
    """Whether the weights of a network lie in the cache of the Hub's client, or in the folder `cache`; nothing is fetched."""
    return any(isinstance(try_to_load_from_cache(place, file, cache_dir=cache), str) for file in WEIGHTS)


def hub_host() -> str:
    """The host of the Hub: huggingface.co, or that of the mirror that HF_ENDPOINT names."""
    return urlsplit(constants.ENDPOINT).netloc


@contextmanager
def without_hub(is_silent: bool) -> Iterator[None]:
    """While the block runs, the Hub's client takes what it has stored here and asks nobody, where the Hub `is_silent`."""
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or is_silent
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
