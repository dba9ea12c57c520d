"""timm's pretrained weights without a connection: at once from what is stored, at once one line where nothing is."""

from __future__ import annotations

import http.server
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from autoformer.errors import CheckpointError
from autoformer.pretrained.hub import silence_of_hub
from autoformer.pretrained.timm_models import timm_network

pytestmark = pytest.mark.usefixtures("stored")
REPOSITORY = "models--timm--test_vit.r160_in1k"  # as the Hub's client calls what timm's cfg names


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store of the Hub's client."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return tmp_path / "hub"


@pytest.fixture
def unconnected(monkeypatch: pytest.MonkeyPatch) -> str:
    """A Hub that is not there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", f"http://{address}")
    return address


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Hub that knows no page."""
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        monkeypatch.setattr(server.RequestHandlerClass, "log_message", lambda *_: None)
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield
        server.shutdown()
        thread.join()


def test_without_a_connection_one_line_says_so_at_once(unconnected: str) -> None:
    began = time.monotonic()
    with pytest.raises(CheckpointError) as raised:
        timm_network("timm:test_vit")
    assert time.monotonic() - began < 10, "its client alone takes a minute"
    said = str(raised.value)
    assert said.startswith(f"the weights of timm's test_vit are not stored here, and {unconnected} cannot be asked (")
    assert said.endswith("); connect and run the same command again, or give a local file: timm:test_vit@FILE")
    assert "\n" not in said
    assert not constants.HF_HUB_OFFLINE, "a later download is not forbidden"


@pytest.mark.usefixtures("unconnected")
def test_weights_that_were_downloaded_once_need_no_connection(stored: Path) -> None:
    torch.manual_seed(3)
    expected = timm.create_model("test_vit").state_dict()
    (stored / REPOSITORY / "refs").mkdir(parents=True)
    (stored / REPOSITORY / "refs" / "main").write_text("f" * 40)
    (stored / REPOSITORY / "snapshots" / ("f" * 40)).mkdir(parents=True)
    save_file(expected, stored / REPOSITORY / "snapshots" / ("f" * 40) / "model.safetensors")
    found = timm_network("timm:test_vit").state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.usefixtures("answering")
def test_a_hub_that_answers_anything_is_asked_for_weights() -> None:
    assert silence_of_hub() is None


def test_a_user_who_forbade_downloads_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=r"cannot be asked \(HF_HUB_OFFLINE is set\)"):
        timm_network("timm:test_vit")
