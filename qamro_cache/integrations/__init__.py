"""The package as other libraries have it: estimators, programs, trackers. Only cli imports it."""
