"""Clips, raters and splits: what is evaluated."""
