"""The two programs for target devices (boards): `bundle_program` and `kit_program` (of a benchmark package, or kit).

`verify`, `bench`, `build` and `refit` are their commands, `bundle` opens what they work on, `judging` compares its files,
`program` is what both share, `tables` what people see of `bench` and `verify`. argparse and the standard library alone at the top, Python 3.10.
"""
