"""What the papers' trainings differ in; ``--recipe`` chooses, and each value has a flag of its own."""
import math
from typing import NamedTuple, Optional, Tuple


class Recipe(NamedTuple):
    """Attack lengths are in pixel levels, 0-255; epochs count from 1; base_lr is the rate for 256 images in a step."""
    activation_name: str
    padding: str
    targeted: bool
    attack_epsilon: float
    attack_iter: int
    attack_step_size: float
    prob_start_from_clean: float
    label_smoothing: float
    optimizer: str
    weight_decay: float
    batch_norm_momentum: float
    batch_norm_epsilon: float
    moving_average_decay: float
    epochs: int
    base_lr: float
    warmup_epochs: float
    lr_drop_epochs: Tuple[int, ...]
    lr_decay_epochs: Optional[float]
    eval_attack_iter: int
    eval_attack_step_size: float


_SAT = Recipe(
    activation_name='silu', padding='explicit',  # SAT release
    targeted=False, attack_epsilon=4.0,  # SAT release
    # SAT Sec 3.1: PGD-1, one step. The step of 4 and the clean start are those of the same group's later training
    # script, at the same epsilon (github.com/ytongbai/ViTs-vs-CNNs, advres); SAT's release (ResNet/main.py) also has
    # the 0.2. One draw decides for each image here; in the releases one for each batch.
    attack_iter=1, attack_step_size=4.0, prob_start_from_clean=0.2,
    label_smoothing=0.1,  # SAT release; not known whether the paper's runs had it
    # SAT release, as 1H Sec 2 and 5.1: rate 0.1 for a batch of 256, 5 epochs of warm-up; no moving averages of weights.
    optimizer='momentum', weight_decay=1e-4, batch_norm_momentum=0.9, batch_norm_epsilon=1e-5,
    moving_average_decay=0.0, base_lr=0.1, warmup_epochs=5,
    epochs=100, lr_drop_epochs=(30, 60, 90), lr_decay_epochs=None,  # SAT release
    eval_attack_iter=10, eval_attack_step_size=1.0)  # SAT release

RECIPES = {
    'sat': _SAT,
    'feature-denoising': _SAT._replace(
        activation_name='relu', padding='same',  # FD release
        targeted=True, attack_epsilon=16.0,  # FD Sec 6
        # FD Sec 6: 30 steps of 1; a clean start with probability 0.2 in training.
        attack_iter=30, attack_step_size=1.0, prob_start_from_clean=0.2,
        epochs=110, lr_drop_epochs=(35, 70, 95)),  # FD Sec 5, release
    # SAT's attack with the trainer of its EfficientNet release (EN Sec 5), which has no attack: RMSProp, rate 0.016 for
    # a batch of 256, times 0.97 every 2.4 epochs, about 350 epochs. Batch norm is that of SAT's evaluation command; the
    # trainer's own momentum and epsilon are 0.99 and 1e-3. What the paper's runs had is not known.
    'sat-efficientnet': _SAT._replace(
        optimizer='rmsprop', weight_decay=1e-5, moving_average_decay=0.9999, base_lr=0.016, epochs=350,
        lr_drop_epochs=(), lr_decay_epochs=2.4),
}

BASE_BATCH = 256
# 1H Sec 2.2: with momentum the warm-up starts from 0.1, where the rate is higher. EN release: from 0.
WARMUP_START = {'momentum': 0.1, 'rmsprop': 0.0}
DROP_FACTOR = 0.1
DECAY_FACTOR = 0.97  # EN release


def learning_rate(step, steps_per_epoch, total_batch, recipe):
    """Learning rate of training step ``step``, counted from 0.

    Args:
        steps_per_epoch (float). total_batch (int): images in one step over all ranks; the rate grows linearly with it.
        recipe: has ``optimizer``, ``base_lr``, ``warmup_epochs``, the length of the linear warm-up, ``lr_drop_epochs``,
            after the end of each of which the rate is divided by 10, and ``lr_decay_epochs``, after each of which,
            counted from step 0, it is multiplied by 0.97; None for never.
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


def judged_steps(recipe_name):
    """Number of PGD steps of ``--eval`` where none is given.

    The FD release has one flag for the steps of training and of ``--eval``, and so one default; SAT's ``--eval`` has
    its own.
    """
    recipe = RECIPES[recipe_name]
    return recipe.attack_iter if recipe_name == 'feature-denoising' else recipe.eval_attack_iter


# FD release: the attacks beside clean and PGD-10 that judge the network during training, and when.
_FD_LAST = (20, 30, 40, 50, 60, 70, 80, 90, 100)
LAST_EPOCHS, LATE_EPOCHS = 2, 5


def evaluation_steps(recipe_name, first, epoch, max_epoch):
    """Numbers of PGD steps to judge the network with after ``epoch``.

    ``first`` (10 in both releases) is used every time; FD adds 50 steps every 20 epochs, 100 every 10 epochs and
    in the last five, and the whole range in the last two epochs (FD release).
    """
    steps = {first}
    if recipe_name == 'feature-denoising':
        if epoch % 20 == 0:
            steps.add(50)
        if epoch % 10 == 0 or epoch > max_epoch - LATE_EPOCHS:
            steps.add(100)
        if epoch > max_epoch - LAST_EPOCHS:
            steps.update(_FD_LAST)
    return sorted(steps)
