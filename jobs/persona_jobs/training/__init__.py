"""What mask learning and fine-tuning share: batches, losses, schedule, early stop, checkpoints."""
