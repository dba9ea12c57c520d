"""One module per question that `autoformer profile`, `compare`, `doctor` and `refit` answer about files.

`latency` profiles files, with `cold_start`, `energy` and `batch_sweep`; `regression` and `comparison` put profiles and files
side by side, networks of torch `as_onnx`; `shipping` says which file to ship; `int8_speed`, `artefact_costs`, `refitting` and
`doctor` are what their names say; `config` is a recipe's section.
"""
