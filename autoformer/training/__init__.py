"""Training: one loop for supernets and for networks cut out of them.

In: a network, parts of images and a config (`config`). Out: a run folder with log, checkpoints and the trained network. `runs`
are the two uses, `subjects` what a finetune may train, `trainer` the loop, `step` one step; `choosing` says which networks a
step trains, `curriculum` which of them begin, `batches` and `augment` which images and how, `loader` loads them; `state` is what
a checkpoint holds, `log` what is told, `trackers` who else is told it, `teacher` and `features` distillation, `cached_teacher`
what a teacher said before and `logit_files` the files of it, `distributed` several processes.
"""
