"""Weights that exist already: timm's models, the released AutoFormer supernets, a run of one's own.

In: a name or a file. Out: a supernet or a subnet that starts from it (`start`), or a network that is only judged
(`named_network`).
"""
