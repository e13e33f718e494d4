"""What the papers' trainings differ in: a recipe is a part of the settings; ``--recipe`` chooses one."""
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Sequence, Tuple


class Also(NamedTuple):
    """Numbers of PGD steps that judge a network too, after every ``every`` epochs and the ``last`` ones; 0: never."""
    steps: Tuple[int, ...]
    every: int = 0
    last: int = 0

    def is_due(self, epoch: int, max_epoch: int) -> bool:
        """Whether they judge it after ``epoch``, of ``max_epoch``."""
        return bool(self.every and epoch % self.every == 0 or epoch > max_epoch - self.last)


class Recipe(Mapping[str, Any]):
    """Values of options, by destination, which stand where no flag and no checkpoint says otherwise.

    Attack lengths are in pixel levels, 0-255; epochs count from 1. The values are attributes too.

    Attributes, of which no option has the value:
        judged_steps (int): number of PGD steps of ``--eval`` where none is given.
        judged_also (sequence of Also): what judges the network during training, beside ``--eval-attack-iter``.
        otherwise (dict): of options, in a run of another number of epochs than the recipe's.
    """

    def __init__(self, *, judged_steps: int, judged_also: Sequence[Also] = (), otherwise: Mapping[str, Any] = {},
                 **values: Any) -> None:
        self.judged_steps, self.judged_also, self.otherwise = judged_steps, judged_also, otherwise
        self._values = values

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__['_values'][name]
        except KeyError:
            raise AttributeError(name) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def but(self, without: Sequence[str] = (), **values: Any) -> 'Recipe':
        """This recipe with other values of some options, and without those of others."""
        own = dict(judged_steps=self.judged_steps, judged_also=self.judged_also, otherwise=self.otherwise)
        kept = {name: value for name, value in self._values.items() if name not in without}
        return Recipe(**{**own, **kept, **values})


_SAT = Recipe(
    activation_name='silu', padding='explicit',  # SAT release
    attack='pgd', targeted=False, attack_epsilon=4.0,  # SAT release
    # SAT Sec 3.1: PGD-1, one step. The step of 4 and the clean start are those of the same group's later training
    # script, at the same epsilon (github.com/ytongbai/ViTs-vs-CNNs, advres); SAT's release (ResNet/main.py) also has
    # the 0.2. One draw decides for each image here; in the releases one for each batch.
    attack_iter=1, attack_step_size=4.0, prob_start_from_clean=0.2,
    label_smoothing=0.1,  # SAT release; not known whether the paper's runs had it
    mixup=0.0, cutmix=0.0, random_erasing=0.0,
    # SAT release, as 1H Sec 2 and 5.1: rate 0.1 for a batch of 256, 5 epochs of warm-up; no moving averages of weights.
    optimizer='momentum', weight_decay=1e-4, batch_norm_momentum=0.9, batch_norm_epsilon=1e-5,
    moving_average_decay=0.0, base_lr=0.1, lr_scaling='linear', warmup_epochs=5, warmup_from=None,
    moving_average_ramp=True,  # EN release's, where averages are asked for
    epochs=100, lr_drop_epochs=(30, 60, 90), lr_decay_epochs=None, lr_cosine_to=None,  # SAT release
    eval_attack_iter=10, eval_attack_step_size=1.0, judged_steps=10)  # SAT release

RECIPES: Dict[str, Recipe] = {
    'sat': _SAT,
    'feature-denoising': _SAT.but(
        activation_name='relu', padding='same',  # FD release
        targeted=True, attack_epsilon=16.0,  # FD Sec 6
        # FD Sec 6: 30 steps of 1; a clean start with probability 0.2 in training.
        attack_iter=30, attack_step_size=1.0, prob_start_from_clean=0.2,
        epochs=110, lr_drop_epochs=(35, 70, 95),  # FD Sec 5, release
        judged_steps=30,  # FD release: one flag for the steps of training and of --eval, and so one default
        # FD release, beside clean and PGD-10.
        judged_also=(Also((50,), every=20), Also((100,), every=10, last=5),
                     Also((20, 30, 40, 50, 60, 70, 80, 90, 100), last=2))),
    # SAT's attack with the trainer of its EfficientNet release (EN Sec 5), which has no attack: RMSProp, rate 0.016 for
    # a batch of 256, times 0.97 every 2.4 epochs, about 350 epochs. Batch norm is that of SAT's evaluation command; the
    # trainer's own momentum and epsilon are 0.99 and 1e-3. What the paper's runs had is not known.
    'sat-efficientnet': _SAT.but(
        optimizer='rmsprop', weight_decay=1e-5, moving_average_decay=0.9999, base_lr=0.016, epochs=350,
        lr_drop_epochs=(), lr_decay_epochs=2.4),
    # "Revisiting Adversarial Training for ImageNet" (RAT, Singh et al. 2023): the values of its release's command.
    'revisiting-at': _SAT.but(
        activation_name='gelu_erf', batch=80,
        # RAT Sec 3: APGD with two steps from the image itself; it sets its step sizes, the first of twice the radius.
        attack='apgd', attack_iter=2, attack_step_size=8.0, prob_start_from_clean=0.0,
        label_smoothing=0.1, mixup=0.8, cutmix=1.0, random_erasing=0.25,  # smoothing in the mixed labels alone
        optimizer='adamw', weight_decay=0.05, moving_average_decay=0.9999, moving_average_ramp=False,
        base_lr=1e-3, lr_scaling='none', warmup_from=1e-4, lr_cosine_to=5e-6, lr_drop_epochs=(),
        # The release's program has a warm-up of 10 epochs; its command for 300 has 20.
        epochs=300, warmup_epochs=20, otherwise={'warmup_epochs': 10}),
    # The command by which the release of "Do Adversarially Robust ImageNet Models Transfer Better?" (Salman et al.
    # 2020, github.com/microsoft/robust-models-transfer, README) trains a whole network on other classes: 150 epochs
    # of 64 images a step on one GPU, rate 0.01, a tenth after every 30, weight decay 5e-4 (here of weights alone),
    # hard labels. The momentum is SAT's. Vision transformers are fine-tuned by SGD too (Dosovitskiy et al. 2021, App.
    # B.1.1).
    # Of networks it says nothing: those of checkpoints are as they are.
    'fine-tune': _SAT.but(
        without=('activation_name', 'padding', 'batch_norm_momentum', 'batch_norm_epsilon'),
        # SAT's attack. One step is stable in fine-tuning at epsilon 4 and 8, and costs 0.4% and 1.4% of the robust
        # accuracy of several (Zhao and Bagchi 2025, "Are Fast Methods Stable in Adversarially Robust Transfer
        # Learning?"). Hua et al. 2024 fine-tune under attack as well, from an adversarially trained network.
        batch=64, label_smoothing=0.0, weight_decay=5e-4, base_lr=0.01, lr_scaling='none', warmup_epochs=0,
        epochs=150, lr_drop_epochs=(30, 60, 90, 120)),
}


def names() -> Tuple[str, ...]:
    """Names of the options that recipes decide."""
    return tuple(dict.fromkeys(name for recipe in RECIPES.values() for name in recipe))


def evaluation_steps(also: Sequence[Also], first: int, epoch: int, max_epoch: int) -> List[int]:
    """Numbers of PGD steps to judge the network with after ``epoch``: ``first``, and what ``also`` then has."""
    due = [steps for each in also if each.is_due(epoch, max_epoch) for steps in each.steps]
    return sorted({first, *due})
