"""How one thing is timed honestly, and whether the number can be trusted.

`measure` times a `backend` and gives a `Measurement`; `order_statistics` are its numbers, `verdict` says VALID, UNSTABLE or
INVALID and what becomes of a limit; `drift` times several in turns; `device`, `sensors`, `gpu_sensors`, `system_files` and
`machine_state` are what the machine says, `clock_lock` fixes its clocks, `trtexec_runs` measures by trtexec. All of it runs on
boards: the standard library alone at the top of each module.
"""
