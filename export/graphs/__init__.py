"""Everything that writes, reads, checks or changes an ONNX file; nothing of `engines`.

`onnx_graph` writes one from a network, `oldest_form` so that old runtimes read it; `quantization` (int8, by the ranges of
`calibration`), `half_precision` (fp16), `folding` (pixels as input) and `shared_weights` change it; `onnx_reading` reads
anyone's, `onnx_model` runs one, `refusals` says why one is not read; `onnx_file`, `external_data` and `model_metadata` read
without the onnx package; `tensorrt_rules`, with the tables of `tensorrt_operators` and over `graph_view`, and
`attention_pattern` say what TensorRT would refuse or not fuse.
"""
