"""A network is judged by its answers to images whose classes are known.

In: whatever classifies images, and the images. Out: its `answers`, one by one; `per_class` counts them by class, and says which
classes are taken for which; `mistakes` are the wrong answers that were given most certainly, with pictures; `tables` writes all
of it as CSV.
"""
