"""One file per command: it reads words, calls one function, shows its answer. The commands of `profile` have a room beside."""
