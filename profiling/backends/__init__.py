"""What can be timed: a network or file, opened with ONNX Runtime, TensorRT or torch.

In: an artefact (`of_artefacts`) or an architecture of a space (`of_spaces`). Out: a `LatencyBackend` for `measuring`.
"""
