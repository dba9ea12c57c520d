"""A network becomes files that run elsewhere, each compared with its source before it counts.

`artefacts` makes all files of an export (its settings: `config`), `parity` compares them, `class_losses` says what int8 loses
by class, `manifest` records them. `predictor` opens whatever can classify. `bundle` packs a hand-over, `expected` is what its
files should give again, `program` packs the programs for target devices. The rooms: `networks` as they are exported, `graphs`
(ONNX), `engines` (TensorRT), `judging`.
"""
