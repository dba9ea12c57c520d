"""A network becomes files that run elsewhere, each compared with its source before it counts."""
