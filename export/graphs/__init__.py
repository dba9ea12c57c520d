"""Everything that writes, reads, checks or changes an ONNX file.

In: a network or an ONNX file. Out: an ONNX file, what it says of itself, and what TensorRT would object to. Imports nothing of
`engines`.
"""
