"""One module per question that `autoformer profile`, `compare` and `doctor` answer about files.

In: artefacts. Out: values with a `to_dict`, which `reports` and `cli` show.
"""
