"""Images and their parts.

In: a folder, an archive, the name of a data set, or one's own. Out: three disjoint parts and the record that restores them.
`loading` makes and restores parts, `parts` are the values, `splits` cuts them; `sources` opens what a name means, `layout` tells
parts from classes, `classes` orders them; `folders`, `tar_images` and `images` find files, `remarks` say what was not taken,
`named_sets` what timm has a name for, `reading` reads many at once. `decoding` opens an image; `preprocessing` makes numbers of
it (modes, orientation, resizing, normalising), with the `value_range` of what has more than 8 bit. `check` looks at a data set,
`examining` at one image of it, and for images alike; `sizes` says how large images are, and at which size they are trained on;
`ledger` counts who read the test part.
"""
