"""Fixtures that tests of the command line share."""

from tests.support.edited_folders import folder  # noqa: F401
