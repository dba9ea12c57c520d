"""Everything about TensorRT and TensorRT-RTX: building, refitting, running and reading engines.

`builder`, `refit`, `engine` (run) and `layers` (inside) use their bindings, `trtexec` and `trtexec_output` the program;
`artefact` makes engines part of an export, `plans` says which may be loaded, `target_gpus` for which GPUs they are.
`trial` tries strange files in a process of its own (`trial_worker`), and `builder_words` listens to what a builder says of them.
`tensorrt_versions` knows both products and what differs from 8.6 to 11, `timing_cache`, `build_progress` and `cuda_runtime` serve
them. All of it runs on boards: the standard library alone at the top of each module.
"""
