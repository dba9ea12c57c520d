"""Images and their parts.

In: a folder, an archive, the name of a data set, or one's own. Out: three disjoint parts and the record that restores them.
`loading` makes and restores parts, `parts` are the values, `splits` cuts them; `sources`, `images` and `tar_images` open files,
`reading` reads many at once; `preprocessing` makes numbers of an image (modes, orientation, resizing, normalising);
`check` examines a data set, `duplicates` finds images alike; `ledger` counts who read the test part.
"""
