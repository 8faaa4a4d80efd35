"""The version of the package: what setup.cfg, the head file and a run's ``config.json`` name."""

__version__ = "0.1.0"
