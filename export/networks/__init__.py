"""Networks as they are exported: modules of torch, no ONNX.

`folding` makes them take pixels, `half_precision` compute in fp16; `known` says of one of ours what its graph depends on beside
weights and `sizes`, `grids` what of it follows from the size of its images.
"""
