"""The commands of `autoformer profile`: `latency` (run and table), `layers`, `counts`, `regression` (compare), `kit`.

`measurement_tables` shows measurements on the terminal.
"""
