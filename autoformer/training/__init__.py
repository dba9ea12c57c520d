"""Training: one loop for supernets and for networks cut out of them.

In: a network, parts of images and a config. Out: a run folder with its log, checkpoints and the trained network. `runs` are the
two uses, `trainer` is the loop, `step` one step of it, `state` what a checkpoint holds.
"""
