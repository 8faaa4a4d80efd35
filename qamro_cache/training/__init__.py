"""Stage 2: many heads at once."""
