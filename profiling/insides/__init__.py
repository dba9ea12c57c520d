"""Where the time goes and what is computed: layers, blocks and operators.

In: an ONNX file, an engine or a network. Out: times by layer, counts by operator.
"""
