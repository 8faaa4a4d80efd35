"""What this machine can do: what is here, what agrees, how fast it is, and what would help."""
