"""Words on the command line become one call and one answer."""
