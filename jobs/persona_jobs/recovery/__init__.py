"""Recovering what slicing lost: a refit, a reconstruction of each block, a fine-tuning."""
