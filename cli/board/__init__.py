"""The two programs for target devices (boards): `bundle_program` and `kit_program` (of a benchmark package, or kit).

`verify`, `bench`, `build` and `refit` are their commands, `bundle` opens what they work on, `judging` compares its files,
`tables` is what people see of them, `program` what both share. argparse and the standard library alone at the top, Python 3.10.
"""
