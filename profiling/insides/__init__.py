"""Where the time goes and what is computed.

`layers` are times by layer and block, measured by `onnxruntime_layers` and `tensorrt_layers`; `engine_insides` is what TensorRT
made of a network (`built_elsewhere`: where no GPU here runs it), `fvcore_counts` what fvcore counts by operator.
"""
