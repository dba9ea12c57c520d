"""Weights that exist already: timm's models, the released AutoFormer supernets, a run of one's own.

In: a name or a file. Out: a supernet or subnet that starts from it (`start`). `timm_models` (from the `hub`) and `official`
open them by name, `vit_features` tells which of timm's transformers become ours and `vit_weights` makes them so,
`foreign_weights` reads files of others and `weight_shapes` what their shapes tell, `importance` orders heads and channels by
the weights alone, `cutting` turns and orders them by the `activations` of images at hand, `adapt` fits to other images and
classes, with `first_layer` for what images meet first and `refit` for another space; `classifier` is any of timm's networks to
train further, `named_network` opens a network that is only judged; `rivals` names networks of timm that a searched one is
compared with.
"""
