"""The learning rate of each step."""
import math

BASE_BATCH = 256
# 1H Sec 2.2: with momentum the warm-up starts from 0.1, where the rate is higher. EN release: from 0.
WARMUP_START = {'momentum': 0.1, 'rmsprop': 0.0}
DROP_FACTOR = 0.1
DECAY_FACTOR = 0.97  # EN release


def learning_rate(step, steps_per_epoch, total_batch, recipe):
    """Learning rate of training step ``step``, counted from 0.

    Args:
        steps_per_epoch (float). total_batch (int): images in one step over all ranks; the rate grows linearly with it.
        recipe: a recipe or settings; has ``optimizer``, ``base_lr``, ``warmup_epochs``, the length of the linear
            warm-up, ``lr_drop_epochs``, after the end of each of which the rate is divided by 10, and
            ``lr_decay_epochs``, after each of which, counted from step 0, it is multiplied by 0.97; None for never.
    """
    peak = recipe.base_lr * total_batch / BASE_BATCH
    start = WARMUP_START[recipe.optimizer]
    warmup_steps = int(recipe.warmup_epochs * steps_per_epoch)
    if peak > start and step < warmup_steps:
        return start + (peak - start) * step / warmup_steps
    rate = peak * DROP_FACTOR ** sum(step >= epoch * steps_per_epoch for epoch in recipe.lr_drop_epochs)
    if recipe.lr_decay_epochs is None:
        return rate
    return rate * DECAY_FACTOR ** math.floor(step / (recipe.lr_decay_epochs * steps_per_epoch))
