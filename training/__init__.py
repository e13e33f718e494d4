"""A training run: input, trainer, schedule, checkpoints, logs, and its end."""
