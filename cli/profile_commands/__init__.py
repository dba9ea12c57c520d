"""The commands of `autoformer profile`, one file each."""
