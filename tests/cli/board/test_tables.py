"""What people see of `board.pyz bench` and `verify`: a short table, and nothing of what is only for programs."""

from __future__ import annotations

from autoformer.cli.board.tables import bench_lines, text_table, verify_lines


def test_columns_are_as_wide_as_their_widest_cell_and_a_cell_is_one_line() -> None:
    lines = list(text_table(("file", "status"), [("a\nb", "x"), ("longer name", "y")]))
    assert lines == ["file         status", "a\\nb         x", "longer name  y"]


def test_bench_shows_a_row_for_each_file_and_what_speaks_against_its_time() -> None:
    stats = {"p50_ms": 0.5, "p50_low_ms": 0.49, "p50_high_ms": 0.51, "p90_ms": None}
    answer = {
        "measurements": {
            "onnx fp32": {"batch": 2, "stats": stats, "verdict": {"level": "VALID", "reasons": []}, "samples_ms": [0.5] * 900},
            "onnx int8": {
                "batch": 2, "stats": {**stats, "p50_low_ms": None, "p90_ms": 0.7},
                "verdict": {"level": "UNSTABLE", "reasons": ["it drifted", "others ran"]},
            },
        },
        "not measured": {"tensorrt fp16": "TensorRT is not installed"},
        "GPU clock": {"onnx fp32": "not locked"},
    }  # fmt: skip
    lines = [line.split("  ") for line in bench_lines(answer)]
    cells = [[cell.strip() for cell in line if cell] for line in lines]
    assert cells[1] == ["onnx fp32", "2", "0.5 [0.49, 0.51]", "–", "4000", "VALID"]  # 2 images in half a millisecond
    assert cells[2] == ["onnx int8", "2", "0.5 [too few runs]", "0.7", "4000", "UNSTABLE"]
    assert cells[3:] == [
        ["onnx int8 is UNSTABLE: it drifted; others ran"], ["onnx fp32: GPU clock not locked"],
        ["not measured: tensorrt fp16: TensorRT is not installed"], ["--json has the rest"],
    ]  # fmt: skip


def test_verify_shows_files_limits_with_their_use_and_reasons_of_what_is_not_as_it_should_be() -> None:
    answer = {
        "files": ["classes.txt is missing"],
        "artefacts": {
            "onnx fp32": {
                "status": "matches", "reason": "64 images", "right": 60, "images": 64, "right there": 61,
                "accuracy": "as where it was made",
            },
            "tensorrt fp16": {"status": "not run", "reason": "TensorRT is not installed"},
        },
        "budget": {
            "max_params": {"limit": 200, "value": 100, "status": "within budget"},
            "max_latency_ms": {
                "limit": 2.00026, "limit means": "p50, batch 1", "measured": "onnx fp32", "median_ms": 0.92, "low_ms": 0.9,
                "high_ms": 0.95, "verdict": "UNSTABLE: it drifted", "status": "inconclusive",
            },
        },
    }  # fmt: skip
    lines = list(verify_lines(answer))
    assert lines[0] == "damaged: classes.txt is missing"
    assert lines[2].split("  ")[0] == "onnx fp32"
    assert "60 of 64" in lines[2]
    assert "tensorrt fp16: TensorRT is not installed" in lines
    params, latency = (next(line for line in lines if line.startswith(name)) for name in ("max_params", "max_latency_ms"))
    assert "50 %" in params
    assert "0.92 [0.9, 0.95]" in latency
    assert "46 %" in latency
    assert latency.split()[1] == "2"  # in as many digits as the time that is held against it
    assert "max_latency_ms: the time is UNSTABLE: it drifted" in lines
    header = next(line for line in lines if line.startswith("limit "))
    assert [line[header.index("file") :].split("  ")[0] for line in (header, params, latency)] == ["file", "–", "onnx fp32"]


def test_what_a_limit_was_stated_for_and_why_another_file_was_timed_are_told_apart_whatever_the_verdict() -> None:
    stated = {
        "limit": 2.0,
        "limit means": "p50, batch 1, fp32, onnxruntime-cpu, Orin",
        "status": "within budget",
        "median_ms": 1.0,
    }

    def said(**more: str) -> str:
        limits = {"max_latency_ms": {**stated, **more}}
        return "\n".join(line for line in verify_lines({"files": [], "artefacts": {}, "budget": limits}) if "Orin" in line)

    begin = "max_latency_ms was stated for p50, batch 1, fp32, onnxruntime-cpu, Orin; timed here was "
    assert said(measured="onnx fp32") == f"{begin}onnx fp32"
    shipped = {"measured": "onnx int8", "to ship": "model.int8.onnx"}
    why = "onnx int8, since model.int8.onnx is the file to ship"
    assert said(**shipped) == said(**shipped, verdict="UNSTABLE: it drifted") == begin + why
