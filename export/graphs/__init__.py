"""Everything that writes, reads, checks or changes an ONNX file; nothing of `engines`.

`onnx_graph` writes one from a network, `oldest_form` so that old runtimes read it. torch traces a family of networks once:
`pieces` takes that graph apart, a `graph_template` is it with its sizes left open, `templates` are those that are known.
`quantization` (int8, by the ranges of `calibration`) and `shared_weights` change a file; `onnx_reading` reads anyone's,
`onnx_model` runs one, `refusals` says why one is not read; `onnx_file`, `external_data` and `model_metadata` read without the
onnx package; `tensorrt_rules`, with the tables of `tensorrt_operators` and `tensorrt_restrictions` and over `graph_view`, and
`attention_pattern` say what TensorRT would refuse or not fuse.
"""
