"""A view (``settings.data.View``): how an image becomes what a network is shown, in training and in evaluations."""
import dataclasses
from typing import Callable, Dict, NamedTuple, Optional

import numpy as np

from data.antialiased import antialiased_centre, antialiased_crop
from data.augment import (
    VALIDATION_MARGIN,
    Image,
    center_crop,
    distorted_crop,
    padded_crop,
    random_area_crop,
    random_color,
    random_flip,
    resize_plain,
    resize_shortest_edge,
)
from data.images import decode_image, open_image
from data.increasing import rand_augment
from data.policies import apply_policy, describe_policy, policy_of
from settings.data import View


def _light(image: Image, view: View, rng: np.random.Generator) -> np.ndarray:
    return random_flip(random_area_crop(image, view.input_size, rng), rng)


def _full(image: Image, view: View, rng: np.random.Generator) -> np.ndarray:
    return random_flip(random_color(random_area_crop(image, view.input_size, rng), rng), rng)


def _released(image: Image, view: View, rng: np.random.Generator) -> np.ndarray:
    return random_flip(distorted_crop(image, view.input_size, rng), rng)


def _padded(image: Image, view: View, rng: np.random.Generator) -> np.ndarray:
    return random_flip(padded_crop(resize_plain(image[:, :], view.input_size), rng), rng)


def _whole(image: Image, view: View, rng: np.random.Generator) -> np.ndarray:
    return resize_plain(image[:, :], view.input_size)


def _basic(image: Image, view: View, rng: np.random.Generator) -> np.ndarray:
    return antialiased_crop(image, view.input_size, rng)


def _heavy(image: Image, view: View, rng: np.random.Generator) -> np.ndarray:
    return rand_augment(random_flip(_basic(image, view, rng), rng), rng)


def _torchvision(image: Image, view: View, rng: np.random.Generator) -> np.ndarray:
    return random_flip(antialiased_crop(image, view.input_size, rng, 'bilinear'), rng)


def _centre(image: np.ndarray, view: View) -> np.ndarray:
    """FD: shortest edge 256, centre 224; SAT: ``input_size + 32``, centre ``input_size``."""
    return center_crop(resize_shortest_edge(image, view.input_size + VALIDATION_MARGIN), view.input_size)


def _antialiased(image: np.ndarray, view: View) -> np.ndarray:
    return antialiased_centre(image, view.input_size)


def _bilinear(image: np.ndarray, view: View) -> np.ndarray:
    return antialiased_centre(image, view.input_size, 'bilinear')


def _resized(image: np.ndarray, view: View) -> np.ndarray:
    return resize_plain(image, view.input_size)


class Augmentation(NamedTuple):
    """How an image becomes one of [S,S,3].

    trained: (image, view, rng) -> a random one, before the view's policy. evaluated: (image, view) -> that of
    evaluations; None where TensorFlow makes it, with its own resizing. turned: images are turned as their EXIF data
    tell, as by OpenCV and unlike by the programs that read them with Pillow or TensorFlow. whole: a folder's images and
    a single one are classified whole, not as ``evaluated`` crops them.
    """
    trained: Callable[[Image, View, np.random.Generator], np.ndarray]
    evaluated: Optional[Callable[[np.ndarray, View], np.ndarray]]
    turned: bool = True
    whole: bool = True


AUGMENTATIONS: Dict[str, Augmentation] = {
    'imagenet': Augmentation(_full, _centre), 'imagenet-light': Augmentation(_light, _centre),
    'efficientnet': Augmentation(_released, None, whole=False),
    'revisiting-at': Augmentation(_heavy, _antialiased, turned=False, whole=False),
    'revisiting-at-basic': Augmentation(_basic, _antialiased, turned=False, whole=False),
    'torchvision': Augmentation(_torchvision, _bilinear, turned=False, whole=False),
    'cifar': Augmentation(_padded, _resized), 'none': Augmentation(_whole, _resized)}


def default_augmentation(data: Optional[str], input_size: int, photos: str = 'imagenet') -> str:
    """Name of the augmentation used where none is asked for (our choice).

    Args:
        data (str or None): root of the data set; None is the embedded digits, whose classes a flip would confuse.
        input_size (int): pixels per side. photos (str): the network's augmentation for images of ImageNet's kind.
    """
    if data is None:
        return 'none'
    return 'cifar' if input_size < 64 else photos


def settled(view: View) -> View:
    """``view`` with what its policy leaves open, and None for what means nothing there: as trainers and data servers
    tell each other.

    Raises:
        ValueError: a value is out of range.
    """
    check_view(view)
    return dataclasses.replace(view, **describe_policy(policy_of(view)))


def check_view(view: View) -> None:
    """Raises ValueError if there is no such ``view`` (settings.data.View)."""
    if view.input_size < 1:
        raise ValueError('--input-size {}: must be at least 1'.format(view.input_size))
    if view.augmentation not in AUGMENTATIONS:
        raise ValueError("--augmentation {!r}: choose from {}".format(view.augmentation, list(AUGMENTATIONS)))
    policy_of(view)


def augment(image: Image, view: View, rng: np.random.Generator) -> np.ndarray:
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


def validation_transform(image: np.ndarray, view: View) -> np.ndarray:
    """The deterministic view of evaluation.

    Returns:
        uint8 [S,S,3].
    Raises:
        ValueError: there is no such view, or TensorFlow makes it (``efficientnet_view.py``).
    """
    check_view(view)
    evaluated = AUGMENTATIONS[view.augmentation].evaluated
    if evaluated is None:
        raise ValueError("the validation view of --augmentation {} is made by TensorFlow".format(view.augmentation))
    return evaluated(image, view)


def opened(content: bytes, view: View) -> Image:
    """An encoded image for ``augment``. Raises: Undecodable."""
    return open_image(content, AUGMENTATIONS[view.augmentation].turned)


def decoded(content: bytes, view: View) -> np.ndarray:
    """An encoded image for ``validation_transform``. Raises: Undecodable."""
    return decode_image(content, AUGMENTATIONS[view.augmentation].turned)


def shown_whole(view: View) -> bool:
    """Whether the images of a folder, or a single one, are classified whole and not as an evaluation crops them."""
    return AUGMENTATIONS[view.augmentation].whole


def made_by_tensorflow(view: View) -> bool:
    """Whether the view of evaluation is not ``validation_transform``'s but that of ``efficientnet_view.py``."""
    return AUGMENTATIONS[view.augmentation].evaluated is None
