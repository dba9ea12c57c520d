"""Everything about TensorRT: building, refitting, running and reading engines.

`builder`, `refit`, `engine` (run) and `layers` (inside) use its bindings, `trtexec` and `trtexec_output` the program;
`artefact` makes engines part of an export. `tensorrt_versions` knows what differs from 8.6 to 11, `timing_cache`,
`build_progress` and `cuda_runtime` serve them. All of it runs on boards: the standard library alone at the top of each module.
"""
