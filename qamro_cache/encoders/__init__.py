"""Frozen models behind one protocol, a file each."""
