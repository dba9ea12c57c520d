"""The fixture that the tests of this room share."""

from tests.support.subnets import folder

__all__ = ["folder"]
