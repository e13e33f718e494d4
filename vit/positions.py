"""The position embedding of one size of images for those of another."""
import numpy as np

_CUBIC = -0.75  # PyTorch's, of its bicubic interpolation
# Of the originals' rule: the step is that of a grid so much larger, so that rounding never makes it smaller by one.
_MORE = 0.1


def resized(embedding, count):
    """A position embedding for another grid, by the rule of DINO's and Singh et al.'s code: bicubic, from the middles
    of positions, repeating the edge, in steps of n / (m + 0.1) for grids of n and m.

    Args:
        embedding (np.ndarray): float [1,T,C], T = n * n, or n * n + 1 with the class token's in front, which stays.
        count (int): T of the result.
    Returns:
        np.ndarray: float32 [1,count,C]; None where the two are no such grids, or one alone has a class token's.
    """
    old, new = _grid(embedding.shape[1]), _grid(count)
    if old is None or new is None or old[1] != new[1]:
        return None
    (before, first), (after, _) = old, new
    if before == after:
        return np.float32(embedding)
    weights = _weights(before, after)
    grid = np.asarray(embedding[0, first:], np.float64).reshape(before, before, -1)
    grid = np.einsum('ip,jq,pqc->ijc', weights, weights, grid).reshape(after * after, -1)
    return np.float32(np.concatenate([embedding[0, :first], grid])[None])


def _grid(count):
    """(positions along a side, class tokens in front) of an embedding of ``count`` rows; None for no square."""
    for first in 0, 1:
        side = round((count - first) ** 0.5)
        if side > 0 and side * side == count - first:
            return side, first
    return None


def _weights(before, after):
    """[after, before]: what each position of the larger or smaller grid takes of each."""
    places = (np.arange(after) + 0.5) * (before / (after + _MORE)) - 0.5
    weights = np.zeros([after, before])
    for row, place in enumerate(places):
        for near in range(int(np.floor(place)) - 1, int(np.floor(place)) + 3):
            weights[row, min(max(near, 0), before - 1)] += _cubic(abs(place - near))
    return weights


def _cubic(distance):
    """Keys' kernel."""
    if distance <= 1:
        return ((_CUBIC + 2) * distance - (_CUBIC + 3)) * distance ** 2 + 1
    return _CUBIC * (((distance - 5) * distance + 8) * distance - 4) if distance < 2 else 0.0
