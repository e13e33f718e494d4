"""A view (``settings.data.View``): how an image becomes what a network is shown, in training and in evaluations."""
import dataclasses
from typing import Callable, Dict, NamedTuple, Optional

from data.augment import (
    VALIDATION_MARGIN,
    center_crop,
    distorted_crop,
    padded_crop,
    random_area_crop,
    random_color,
    random_flip,
    resize_plain,
    resize_shortest_edge,
)
from data.policies import apply_policy, describe_policy, policy_of


def _light(image, view, rng):
    return random_flip(random_area_crop(image, view.input_size, rng), rng)


def _full(image, view, rng):
    return random_flip(random_color(random_area_crop(image, view.input_size, rng), rng), rng)


def _released(image, view, rng):
    return random_flip(distorted_crop(image, view.input_size, rng), rng)


def _padded(image, view, rng):
    return random_flip(padded_crop(resize_plain(image[:, :], view.input_size), rng), rng)


def _whole(image, view, rng):
    return resize_plain(image[:, :], view.input_size)


def _centre(image, view):
    """FD: shortest edge 256, centre 224; SAT: ``input_size + 32``, centre ``input_size``."""
    return center_crop(resize_shortest_edge(image, view.input_size + VALIDATION_MARGIN), view.input_size)


def _resized(image, view):
    return resize_plain(image, view.input_size)


class Augmentation(NamedTuple):
    """How an image becomes one of [S,S,3].

    trained: (image, view, rng) -> a random one, before the view's policy. evaluated: (image, view) -> that of
    evaluations; None where TensorFlow makes it, with its own resizing.
    """
    trained: Callable
    evaluated: Optional[Callable]


AUGMENTATIONS: Dict[str, Augmentation] = {
    'imagenet': Augmentation(_full, _centre), 'imagenet-light': Augmentation(_light, _centre),
    'efficientnet': Augmentation(_released, None),
    'cifar': Augmentation(_padded, _resized), 'none': Augmentation(_whole, _resized)}


def default_augmentation(data, input_size, photos='imagenet'):
    """Name of the augmentation used where none is asked for (our choice).

    Args:
        data (str or None): root of the data set; None is the embedded digits, whose classes a flip would confuse.
        input_size (int): pixels per side. photos (str): the network's augmentation for images of ImageNet's kind.
    """
    if data is None:
        return 'none'
    return 'cifar' if input_size < 64 else photos


def settled(view):
    """``view`` with what its policy leaves open, and None for what means nothing there: as trainers and data servers
    tell each other.

    Raises:
        ValueError: a value is out of range.
    """
    check_view(view)
    return dataclasses.replace(view, **describe_policy(policy_of(view)))


def check_view(view):
    """Raises ValueError if there is no such ``view`` (settings.data.View)."""
    if view.input_size < 1:
        raise ValueError('--input-size {}: must be at least 1'.format(view.input_size))
    if view.augmentation not in AUGMENTATIONS:
        raise ValueError("--augmentation {!r}: choose from {}".format(view.augmentation, list(AUGMENTATIONS)))
    policy_of(view)


def augment(image, view, rng):
    """One random training view.

    Args:
        image (np.ndarray or Jpeg): uint8 [H,W,3], BGR. Of a ``Jpeg`` no more is decoded than the view shows.
        view (settings.data.View): its policy is applied last, where the EN release has it.
        rng (np.random.Generator): source of all random choices.
    Returns:
        uint8 [S,S,3].
    Raises:
        ValueError: there is no such view.
    """
    check_view(view)
    image = AUGMENTATIONS[view.augmentation].trained(image, view, rng)
    policy = policy_of(view)
    return image if policy is None else apply_policy(image, policy, rng)


def validation_transform(image, view):
    """The deterministic view of evaluation.

    Returns:
        uint8 [S,S,3].
    Raises:
        ValueError: there is no such view, or TensorFlow makes it (``efficientnet_view.py``).
    """
    check_view(view)
    if made_by_tensorflow(view):
        raise ValueError("the validation view of --augmentation {} is made by TensorFlow".format(view.augmentation))
    return AUGMENTATIONS[view.augmentation].evaluated(image, view)


def made_by_tensorflow(view):
    """Whether the view of evaluation is not ``validation_transform``'s but that of ``efficientnet_view.py``."""
    return AUGMENTATIONS[view.augmentation].evaluated is None
