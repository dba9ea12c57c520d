"""Fixtures that tests of the command line share."""

from tests.support.edited_folders import folder  # noqa: F401
from tests.support.searches import supernet  # noqa: F401
