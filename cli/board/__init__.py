"""The two programs for devices: that of a bundle and that of a benchmark package (kit).

argparse and the standard library alone, Python 3.10.
"""
