"""The loss around an image, over the plane of the attack's direction and a random one (SAT Figure 5)."""
from typing import NamedTuple

import numpy as np

from sat.images import Images
from seeds import LANDSCAPE

GRID = 21  # points on a side; ours


class Landscape(NamedTuple):
    """The loss over planes through images, one plane an image.

    loss: float32 [N,G,G], cross entropy of the true label at image + attack[i] * attack direction + random[j] * random
    direction. offsets: float [G], both axes, in pixel levels.
    """
    images: Images
    offsets: np.ndarray
    loss: np.ndarray


def random_signs(seed, index, shape):
    """Rademacher directions, one for each image's place ``index`` [N] in the set: float32 [N, ...shape] of 1 and -1."""
    return np.stack([np.random.default_rng([seed, LANDSCAPE, place]).choice(np.float32([-1, 1]), shape)
                     for place in index])


def measure(subject, images, attacker, span, grid, seed):
    """The loss of ``images`` over their planes.

    The attack's direction is the sign of what it adds to an image. Points are not cut to valid pixels, so that the
    surface is the network's alone; those beyond the radius are no attacks.

    Args:
        subject (Subject). attacker: makes the attack's direction. span (float): pixel levels to either side.
        grid (int): points on a side, odd, so that the image itself is one. seed (int): of the random directions.
    Returns:
        Landscape.
    """
    towards = np.sign(_perturbation(subject, images, attacker))
    aside = random_signs(seed, images.index.tolist(), images.pixels.shape[1:])
    offsets = np.linspace(-span, span, grid)
    loss = np.empty([len(images), grid, grid], np.float32)
    for i, along in enumerate(offsets):
        for j, across in enumerate(offsets):
            moved = images.moved_to((images.pixels + along * towards + across * aside).astype(np.float32))
            loss[:, i, j] = subject.judge(moved).loss
    return Landscape(images, offsets, loss)


def _perturbation(subject, images, attacker):
    """What the attack adds, in pixel levels, without the rounding of the way to the network's units and back."""
    change = subject.judge(images, attacker, keep=True).adv - np.clip(images.pixels, 0, 255)
    return np.where(np.abs(change) < 1e-3, 0, change)


def as_json(landscape):
    """JSON-ready."""
    images = landscape.images
    return {'offsets': landscape.offsets.tolist(), 'images': [
        {'file': file, 'index': int(index), 'label': int(label), 'loss': loss.tolist()}
        for file, index, label, loss in zip(images.files, images.index, images.label, landscape.loss)]}
