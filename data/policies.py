"""AutoAugment and RandAugment, as functions of uint8 BGR images [H,W,3].

"AutoAugment" (Cubuk et al. 2018) with the 25 sub-policies learned on ImageNet; "RandAugment" (Cubuk et al. 2019).
Operations, constants and quirks are those of TensorFlow's EfficientNet release (EN: `autoaugment.py`, TensorFlow 1.15),
whose uint8 arithmetic differs from that of the papers' PIL in places; the comments say where.

Every random choice is drawn from the ``np.random.Generator`` in the argument list. The operations take the drawn values
themselves and leave the image they are given alone.
"""
from typing import Any, Dict, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from data.operations import OPERATIONS
from settings.data import View

POLICIES = ('autoaugment', 'randaugment')
# EN release: the level that the constants below belong to.
MAX_LEVEL = 10
# EN release, help of `distort_image_with_randaugment`: magnitudes are best in 5 to 30, so levels above MAX_LEVEL occur.
MAX_MAGNITUDE = 30
# EN release: values at level 10. Degrees, shift in x per pixel in y (and the reverse), grey levels.
ROTATE = 30
SHEAR = 0.3
SOLARIZE_ADD = 110


class Reach(NamedTuple):
    """Pixels at level 10: half the side of the cut-out square, and the shift."""
    cutout: int
    translate: int


# EN release: both in pixels whatever the image's size; at level 9, AutoAugment's shift empties an image of 224.
REACH = {'autoaugment': Reach(cutout=100, translate=250), 'randaugment': Reach(cutout=40, translate=100)}
# EN release, "v0": sub-policies of two (operation, probability, level).
AUTOAUGMENT = (
    (('Equalize', 0.8, 1), ('ShearY', 0.8, 4)),
    (('Color', 0.4, 9), ('Equalize', 0.6, 3)),
    (('Color', 0.4, 1), ('Rotate', 0.6, 8)),
    (('Solarize', 0.8, 3), ('Equalize', 0.4, 7)),
    (('Solarize', 0.4, 2), ('Solarize', 0.6, 2)),
    (('Color', 0.2, 0), ('Equalize', 0.8, 8)),
    (('Equalize', 0.4, 8), ('SolarizeAdd', 0.8, 3)),
    (('ShearX', 0.2, 9), ('Rotate', 0.6, 8)),
    (('Color', 0.6, 1), ('Equalize', 1.0, 2)),
    (('Invert', 0.4, 9), ('Rotate', 0.6, 0)),
    (('Equalize', 1.0, 9), ('ShearY', 0.6, 3)),
    (('Color', 0.4, 7), ('Equalize', 0.6, 0)),
    (('Posterize', 0.4, 6), ('AutoContrast', 0.4, 7)),
    (('Solarize', 0.6, 8), ('Color', 0.6, 9)),
    (('Solarize', 0.2, 4), ('Rotate', 0.8, 9)),
    (('Rotate', 1.0, 7), ('TranslateY', 0.8, 9)),
    (('ShearX', 0.0, 0), ('Solarize', 0.8, 4)),
    (('ShearY', 0.8, 0), ('Color', 0.6, 4)),
    (('Color', 1.0, 0), ('Rotate', 0.6, 2)),
    (('Equalize', 0.8, 4), ('Equalize', 0.0, 8)),
    (('Equalize', 1.0, 4), ('AutoContrast', 0.6, 2)),
    (('ShearY', 0.4, 7), ('SolarizeAdd', 0.6, 7)),
    (('Posterize', 0.8, 2), ('Solarize', 0.6, 10)),
    (('Solarize', 0.6, 8), ('Equalize', 0.6, 1)),
    (('Color', 0.8, 6), ('Rotate', 0.4, 5)),
)


class Policy(NamedTuple):
    """What is done to each training image.

    Attributes:
        name (str): one of ``POLICIES``.
        num_layers (int): RandAugment's N, operations per image, at least 1.
        magnitude (int): RandAugment's M, the level of all operations, 0 to 30. Levels above 10 go on with the same
            formulas. (EN release: defaults of `--randaug_num_layers` and `--randaug_magnitude`.)
    """
    name: str
    num_layers: int = 2
    magnitude: int = 10


def make_policy(name: Optional[str], num_layers: Optional[int] = None,
                magnitude: Optional[int] = None) -> Optional[Policy]:
    """The policy that the flags ask for (see ``Policy``), None where ``name`` is; other flags are None for the default.

    Raises:
        ValueError: a value is out of range.
    """
    given = {field: value for field, value in (('num_layers', num_layers), ('magnitude', magnitude))
             if value is not None}
    if given and name != 'randaugment':
        raise ValueError("--randaug-{}: needs --augment-name randaugment".format(next(iter(given)).replace('_', '-')))
    if name is None:
        return None
    policy = Policy(name, **given)
    check_policy(policy)
    return policy


def policy_of(view: View) -> Optional[Policy]:
    """``make_policy`` of a ``settings.data.View``."""
    return make_policy(view.augment_name, view.randaug_num_layers, view.randaug_magnitude)


def describe_policy(policy: Optional[Policy]) -> Dict[str, Any]:
    """What trainers and data servers tell each other of a policy or None: values by flag, None where without
    meaning."""
    name = policy and policy.name
    layers, magnitude = policy[1:] if policy and name == 'randaugment' else (None, None)
    return {'augment_name': name, 'randaug_num_layers': layers, 'randaug_magnitude': magnitude}


def check_policy(policy: Policy) -> None:
    """Raises ValueError if a field of ``policy`` is out of range."""
    if policy.name not in POLICIES:
        raise ValueError("--augment-name {!r}: choose from {}".format(policy.name, list(POLICIES)))
    if policy.num_layers < 1:
        raise ValueError("--randaug-num-layers {}: must be at least 1".format(policy.num_layers))
    if not 0 <= policy.magnitude <= MAX_MAGNITUDE:
        raise ValueError("--randaug-magnitude {}: must be 0 to {}".format(policy.magnitude, MAX_MAGNITUDE))


def apply_policy(image: np.ndarray, policy: Policy, rng: np.random.Generator) -> np.ndarray:
    """One random view, of the same size.

    Args:
        image (np.ndarray): uint8 [H,W,3], BGR. Never written to.
        policy (Policy): what to do.
        rng (np.random.Generator): source of all random choices.
    Returns:
        uint8 [H,W,3]; ``image`` itself where the drawn operations are none.
    Raises:
        ValueError: a field of ``policy`` is out of range.
    """
    check_policy(policy)
    reach = REACH[policy.name]
    if policy.name == 'autoaugment':
        for name, probability, level in AUTOAUGMENT[rng.integers(len(AUTOAUGMENT))]:
            if rng.uniform() < probability:
                image = operate(image, name, level, reach, rng)
        return image
    for _ in range(policy.num_layers):
        # EN release: also draws a probability of 0.2 to 0.8, which none of the operations uses.
        name = RANDAUGMENT[rng.integers(len(RANDAUGMENT))]
        image = operate(image, name, policy.magnitude, reach, rng)
    return image


def operate(image: np.ndarray, name: str, level: float, reach: Reach, rng: np.random.Generator) -> np.ndarray:
    """Apply the operation ``name`` (a key of ``OPERATIONS``) at ``level``; signs and places are drawn."""
    return OPERATIONS[name](image, *operation_values(name, level, reach, image.shape, rng))


def operation_values(name: str, level: float, reach: Reach, shape: Sequence[int],
                     rng: np.random.Generator) -> Tuple[Any, ...]:
    """The values an operation takes at a level (EN release).

    Args:
        name (str): a key of ``OPERATIONS``.
        level (float): 0 to 30; 10 is ``MAX_LEVEL``.
        reach (Reach): pixels at level 10.
        shape (tuple): of the image: H, W, ...
        rng (np.random.Generator): draws the sign of a geometric value and the place of a cut-out.
    Returns:
        A tuple: what follows the image in the operation's argument list.
    """
    strength = level / MAX_LEVEL
    if name in ('Color', 'Contrast', 'Brightness', 'Sharpness'):
        return (strength * 1.8 + 0.1,)
    if name == 'Posterize':
        # EN release: shifts right and left by 8 - bits. TensorFlow does not shift uint8 by more than 7, and takes a
        # negative shift (levels from 23 up) for a large one; so both ends of the scale keep one bit.
        bits = int(strength * 4)
        return (bits if 1 <= bits <= 8 else 1,)
    if name == 'Solarize':
        # EN release: compares in uint8, where 256 is 0. So level 10 inverts all pixels, where PIL would invert none.
        return (int(strength * 256) % 256,)
    if name == 'SolarizeAdd':
        return (int(strength * SOLARIZE_ADD),)
    if name == 'Cutout':
        return int(strength * reach.cutout), int(rng.integers(shape[0])), int(rng.integers(shape[1]))
    if name in ('Rotate', 'ShearX', 'ShearY', 'TranslateX', 'TranslateY'):
        limit = {'Rotate': ROTATE, 'ShearX': SHEAR, 'ShearY': SHEAR}.get(name, reach.translate)
        return (strength * limit * (-1 if rng.uniform() < 0.5 else 1),)
    return ()


# EN release: RandAugment draws from all of them.
RANDAUGMENT = tuple(OPERATIONS)
