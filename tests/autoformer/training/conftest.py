"""The fixture that the tests of this room share."""

from tests.support.trainings import parts

__all__ = ["parts"]
