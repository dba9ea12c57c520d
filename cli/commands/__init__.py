"""One file per command (`engines` has two): it reads words, calls one function, shows its answer. Those of `profile` have a room
beside."""
