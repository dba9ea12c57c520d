"""For which GPUs engines of TensorRT-RTX are built, in the words that people have for them."""

from __future__ import annotations

import pytest

from autoformer.errors import ExportError
from autoformer.export.engines.target_gpus import in_words, read_gpus, runs_on


@pytest.mark.parametrize(
    ("words", "capability"),  # of NVIDIA's table of compute capabilities
    [
        ("sm89", "8.9"), ("8.9", "8.9"), ("SM_120", "12.0"), ("compute86", "8.6"), ("12.1", "12.1"), ("89", "8.9"),
        ("RTX 2080 Ti", "7.5"), ("GeForce RTX 3060", "8.6"), ("NVIDIA GeForce RTX 3090 Ti", "8.6"), ("rtx4070 super", "8.9"),
        ("RTX 4090 D", "8.9"), ("rtx-5090", "12.0"), ("RTX A2000", "8.6"), ("RTX A6000", "8.6"), ("RTX 6000 Ada", "8.9"),
        ("RTX 4000 Ada Generation", "8.9"), ("Quadro RTX 5000", "7.5"), ("RTX PRO 6000", "12.0"), ("DGX Spark", "12.1"),
        ("sm_120a", "12.0"), ("TITAN RTX", "7.5"),  # and as drivers say them
        ("NVIDIA GeForce RTX 3060 Laptop GPU", "8.6"), ("NVIDIA GeForce RTX 3080 12GB", "8.6"), ("RTX A2000 12GB", "8.6"),
        ("NVIDIA RTX 4000 SFF Ada Generation", "8.9"), ("NVIDIA RTX 2000 Ada Generation Laptop GPU", "8.9"),
        ("Quadro RTX 5000 with Max-Q Design", "7.5"), ("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", "12.0"),
    ],
)  # fmt: skip
def test_gpus_are_known_by_capability_and_by_name(words: str, capability: str) -> None:
    assert read_gpus([words]) == (capability,)


def test_several_gpus_are_separated_by_commas_and_named_once() -> None:
    assert read_gpus(["sm89, RTX 5090", "RTX 4090"]) == ("8.9", "12.0")
    assert read_gpus([]) == ()
    assert in_words(("8.9", "12.0")) == "sm89, sm120"
    assert "8.0" in in_words(())


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("Orin", "a Jetson"), ("Jetson AGX Orin", "a Jetson"), ("8.7", "a Jetson"), ("sm_110", "a Jetson"),
        ("A100", "a GPU of data centres"), ("H200", "a GPU of data centres"), ("sm90", "a GPU of data centres"),
        ("L4", "a GPU of data centres"), ("B200", "a GPU of data centres"), ("L40S", "a GPU of data centres"),
        ("NVIDIA A100-SXM4-80GB", "a GPU of data centres"), ("NVIDIA H100 80GB HBM3", "a GPU of data centres"),
        ("Tesla T4", "a GPU of data centres"), ("Tesla P100-PCIE-16GB", "a GPU of data centres"),
        ("A10G", "a GPU of data centres"), ("A800", "a GPU of data centres"),
    ],
)  # fmt: skip
def test_gpus_of_the_other_product_are_refused_with_the_way_to_it(words: str, kind: str) -> None:
    with pytest.raises(
        ExportError, match=f"is {kind}, which TensorRT-RTX is not made for; build on the device, with --format te"
    ):
        read_gpus([words])


@pytest.mark.parametrize("words", ["RTX", "sm", "RTX 9090", "GTX 1080", "x" * 500, "Radeon"])
def test_what_names_no_gpu_is_refused_with_what_does(words: str) -> None:
    with pytest.raises(ExportError, match="is not known; expected sm75, sm80, sm86, sm89, sm120, sm121, or a name like RTX 4090"):
        read_gpus([words])


def test_engines_run_on_what_they_are_for() -> None:
    assert runs_on(("8.9",), "8.9")
    assert not runs_on(("8.9",), "8.6")
    every = ("8.0", "8.6", "8.9", "12.0", "12.1", "13.0")  # "8.0, 8.6, 8.9, 12.0, and later" (NVIDIA, engines built on a CPU)
    assert all(runs_on((), capability) for capability in every)
    assert not any(runs_on((), capability) for capability in ("7.5", "8.7", "9.0", "10.0"))


@pytest.mark.parametrize("words", ["", ",", " , "])
def test_gpus_that_are_asked_for_without_a_name_are_not_taken_for_all(words: str) -> None:
    with pytest.raises(ExportError, match=r"no GPU is named; expected sm75, .* without any, an engine is for compute capability"):
        read_gpus([words])
