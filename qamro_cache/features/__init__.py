"""What a head sees of the clips: features of one or several caches, by an expression."""
