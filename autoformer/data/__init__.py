"""Images and their parts.

In: a folder, an archive, the name of a data set, or a data set of one's own. Out: three disjoint parts (train, search, test),
each a sequence of images with labels, and the record that restores them. `loading` makes and restores parts, `parts` are the
values, `images`, `tar_images`, `sources` and `reading` open files, `preprocessing` turns an image into numbers, `check`
examines a data set. Everything below `training` may be imported by it; this room imports only the files at the door.
"""
