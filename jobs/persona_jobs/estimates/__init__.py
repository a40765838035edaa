"""Time, memory, disk and endpoint tokens that a pipeline takes, by formula and without torch."""
