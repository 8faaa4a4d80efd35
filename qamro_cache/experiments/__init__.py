"""What qamro-train and qamro-ablate do."""
