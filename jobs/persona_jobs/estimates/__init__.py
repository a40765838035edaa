"""Time, memory, disk and teacher tokens that a pipeline takes, by formula and without torch."""
