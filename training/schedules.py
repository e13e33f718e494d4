"""The learning rate of each step: by the values of a schedule, whatever the optimizer's or the recipe's name."""
import math

BASE_BATCH = 256
DROP_FACTOR = 0.1
DECAY_FACTOR = 0.97  # EN release


def learning_rate(step, steps_per_epoch, total_batch, schedule, warmup_start):
    """Learning rate of training step ``step``, counted from 0.

    Args:
        steps_per_epoch (float). total_batch (int): images in one step over all ranks.
        schedule (settings.update.Schedule or Recipe): has ``base_lr``, ``lr_scaling``, ``warmup_epochs``, the length of
            the linear warm-up, ``warmup_from``, and what ``cosine`` and ``FACTORS`` take. warmup_start (float): rate of
            step 0, where the peak is higher and ``warmup_from`` does not tell its part of the peak.
    """
    rate = schedule.base_lr
    if schedule.lr_scaling == 'linear':
        rate = rate * total_batch / BASE_BATCH
    if schedule.warmup_from is not None:
        warmup_start = schedule.warmup_from * rate
    warmup_steps = int(schedule.warmup_epochs * steps_per_epoch)
    if rate > warmup_start and step < warmup_steps:
        return warmup_start + (rate - warmup_start) * step / warmup_steps
    if schedule.lr_cosine_to is not None:
        rate = cosine(rate, step / steps_per_epoch, schedule)
    for factor in FACTORS:
        rate *= factor(step, steps_per_epoch, schedule)
    return rate


def cosine(peak, epochs_done, schedule):
    """What is left of the rate ``peak`` after the warm-up: half a cosine to ``lr_cosine_to`` in the epoch ``epochs``.

    That has a value at each epoch's start, between which the rate goes along straight lines (RAT release).
    """
    begin, end, last = schedule.warmup_epochs, schedule.epochs, schedule.lr_cosine_to
    epochs_done = max(epochs_done, begin)  # a warm-up may end within a step
    if epochs_done >= end:
        return last

    def at(epoch):
        return last + 0.5 * (peak - last) * (1 + math.cos(math.pi * (epoch - begin) / (end - begin)))
    before = max(math.floor(epochs_done), begin)
    after = math.floor(epochs_done) + 1
    return at(before) + (at(after) - at(before)) * (epochs_done - before) / (after - before)


def drops(step, steps_per_epoch, schedule):
    """A tenth after the end of each of the epochs ``lr_drop_epochs``."""
    return DROP_FACTOR ** sum(step >= epoch * steps_per_epoch for epoch in schedule.lr_drop_epochs)


def decay(step, steps_per_epoch, schedule):
    """0.97 times as much after every ``lr_decay_epochs``, counted from step 0; None for never."""
    if schedule.lr_decay_epochs is None:
        return 1.0
    return DECAY_FACTOR ** math.floor(step / (schedule.lr_decay_epochs * steps_per_epoch))


# What a step after the warm-up has of the peak: the product of (step, steps per epoch, schedule) -> float, each 1 where
# its values ask for nothing.
FACTORS = [drops, decay]
