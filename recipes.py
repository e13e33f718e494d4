"""What the two papers' trainings differ in; ``--recipe`` chooses, and each value has a flag of its own."""
from typing import NamedTuple, Tuple


class Recipe(NamedTuple):
    """Attack lengths are in pixel levels, 0-255; epochs count from 1."""
    activation_name: str
    padding: str
    targeted: bool
    attack_epsilon: float
    attack_iter: int
    attack_step_size: float
    prob_start_from_clean: float
    label_smoothing: float
    epochs: int
    lr_drop_epochs: Tuple[int, ...]
    eval_attack_iter: int
    eval_attack_step_size: float


RECIPES = {
    'sat': Recipe(
        activation_name='silu', padding='explicit',  # SAT release
        targeted=False, attack_epsilon=4.0,  # SAT release
        # SAT Sec 3.1: PGD-1, one step from a random start. The step of 4 is quoted second-hand.
        attack_iter=1, attack_step_size=4.0, prob_start_from_clean=0.0,
        label_smoothing=0.1,  # SAT release; not known whether the paper's runs had it
        epochs=100, lr_drop_epochs=(30, 60, 90),  # SAT release
        eval_attack_iter=10, eval_attack_step_size=1.0),  # SAT release
    'feature-denoising': Recipe(
        activation_name='relu', padding='same',  # FD release
        targeted=True, attack_epsilon=16.0,  # FD Sec 6
        # FD Sec 6: 30 steps of 1; a clean start with probability 0.2 in training.
        attack_iter=30, attack_step_size=1.0, prob_start_from_clean=0.2,
        label_smoothing=0.1,  # FD release
        epochs=110, lr_drop_epochs=(35, 70, 95),  # FD Sec 5, release
        eval_attack_iter=10, eval_attack_step_size=1.0),  # FD release
}

# The releases' learning rate: 0.1 for a total batch of 256 (1H Sec 2.1), reached within the first 5 epochs from 0.1
# where it is higher (1H Sec 2.2), divided by 10 at each drop.
BASE_LEARNING_RATE = 0.1
BASE_BATCH = 256
WARMUP_START = 0.1
WARMUP_EPOCHS = 5
DROP_FACTOR = 0.1

# FD release: the attacks beside clean and PGD-10 that judge the network during training, and when.
_FD_LAST = (20, 30, 40, 50, 60, 70, 80, 90, 100)
LAST_EPOCHS = 2


def learning_rate(step, steps_per_epoch, total_batch, drop_epochs, base=BASE_LEARNING_RATE,
                  warmup_epochs=WARMUP_EPOCHS):
    """Learning rate of training step ``step``, counted from 0.

    Args:
        total_batch (int): images in one step over all ranks; the rate grows linearly with it.
        drop_epochs (sequence of int): after the end of each the rate is divided by 10.
        base (float): rate for a total batch of 256. warmup_epochs (float): length of the linear warm-up.
    """
    peak = base * total_batch / BASE_BATCH
    warmup_steps = warmup_epochs * steps_per_epoch
    if peak > WARMUP_START and step < warmup_steps:
        return WARMUP_START + (peak - WARMUP_START) * step / warmup_steps
    return peak * DROP_FACTOR ** sum(step >= epoch * steps_per_epoch for epoch in drop_epochs)


def evaluation_steps(recipe_name, first, epoch, max_epoch):
    """Numbers of PGD steps to judge the network with after ``epoch``.

    ``first`` (10 in both releases) is used every time; FD adds 50 steps every 20 epochs, 100 every 10 epochs and
    after epoch 105, and the whole range in the last two epochs (FD release).
    """
    steps = {first}
    if recipe_name == 'feature-denoising':
        if epoch % 20 == 0:
            steps.add(50)
        if epoch % 10 == 0 or epoch > 105:
            steps.add(100)
        if epoch > max_epoch - LAST_EPOCHS:
            steps.update(_FD_LAST)
    return sorted(steps)
