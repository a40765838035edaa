"""Learning which FFN intermediate channels a persona needs, with all weights frozen."""
