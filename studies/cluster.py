"""A study at full scale: the commands of a cluster, and the GPU-hours that they take."""
import shlex

from machine import gpus
from studies.scales import OF_UPDATE


def commands(cells, scale, place):
    """Lines to type: the data server of each machine, and each cell's jobs."""
    lines = []
    if any(cell.ranks > 1 for cell in cells):
        lines += ['# on each machine, as long as the trainings last:', shlex.join(
            ['python', 'third_party/serve-data.py', '--data', place.data, '--batch', str(scale.batch)])]
    for cell in cells:
        lines.append('# {}'.format(cell.name))
        lines += [place.shown(cell, job) for job in cell.jobs]
    return lines


def hours(cells, scale, seconds_here, images_per_second=None):
    """What the cells take, in words.

    Args:
        seconds_here: cell → seconds of a pass on this machine, measured.
        images_per_second (float): of one GPU, in a training step of the first cell's network; the other networks' times
        are then in proportion to those here.
    """
    if not cells:
        return 'all cells are filled'
    total = sum(cell.passes * seconds_here(cell) for cell in cells) / 3600
    if images_per_second:
        factor = 1 / (images_per_second * (scale.steps + OF_UPDATE) * seconds_here(cells[0]))
        return 'about {:,.0f} GPU-hours, where {} is trained at {:g} images/s on one GPU'.format(
            total * factor, ' '.join(cells[0].network), images_per_second)
    if gpus.visible():
        return 'about {:,.0f} GPU-hours, by steps that were measured on this GPU'.format(total)
    return ("about {:,.0f} hours of this machine's processor, by steps that were measured here; there is no GPU: "
            'give --images-per-second of yours for GPU-hours'.format(total))
