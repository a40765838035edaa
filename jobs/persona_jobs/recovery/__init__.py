"""Recovering what slicing lost: a closed-form refit, then a short fine-tuning."""
