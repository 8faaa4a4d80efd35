"""Stage 1: audio to a cache."""
