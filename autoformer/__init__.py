"""Search-to-edge toolchain for vision transformers: one supernet, a budget, a proved network on the device.

Importing this package imports nothing heavy; take what you need from its modules by name::

    from autoformer.space import SearchSpace
    from autoformer.networks.supernet import Supernet
"""

__version__ = "0.1.0"
