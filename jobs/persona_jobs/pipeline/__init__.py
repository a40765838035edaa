"""What runs, in which order, and as which process."""
