"""What mask learning and fine-tuning share: batches, losses, schedule, trainer, resume state."""
