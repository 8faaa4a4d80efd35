"""Trained heads on new audio."""
