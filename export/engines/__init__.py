"""Everything about TensorRT: building, refitting, running and reading engines, by its bindings or by trtexec.

All of it runs on boards: the standard library alone is imported at the top of each module.
"""
