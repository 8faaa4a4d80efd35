"""One file a door, each with a ``DOOR``."""
