"""What can be timed, opened: ONNX Runtime, TensorRT or torch, each a `LatencyBackend` for `measuring`.

`of_artefacts` opens files and folders, `of_spaces` exports and opens architectures of a space (fresh weights);
`onnxruntime_backend`, `tensorrt_backend` and `torch_backend` are the runtimes.
"""
