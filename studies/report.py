"""Tables and plots of the filled cells, and the page that is made of them."""
import json
import os

from files.atomic import write_bytes, write_text
from studies import published
from studies.estimate import in_words
from studies.figures import both
from studies.registry import STUDIES
from studies.scales import SCALES
from studies.tables import as_json, claims_table, gather, table

_LEAD = """# Results of the studies

Does smoothness help adversarial training, where, and what can be seen of it in small? Each study of the paper is one
command (`python -m studies`, [how](training.md#the-papers-studies)); this page and the tables in `results/` are built
from the cells' files in `results/cells/` by `python -m studies page`, and hold whatever was measured. Accuracy in %; in
brackets the mean difference from the arm that it is compared with, of cells with the same seed (same initial weights,
order of images and augmentation), and its 95% interval by Student's t over seeds: none of one seed. A claim of the
paper is *supported* or *contradicted* where that interval leaves out zero, else *open*. It is an interval over
trainings, all judged on the same images: which images these are moves an accuracy near 35% by 1 point either way (95%)
where there are 8,000 of them, by 3 where there are 1,000, and a difference on the same images by less. Other
measurements are in [measurements.md](measurements.md).
"""


def write(study, scale, place):
    """Write a study's JSON, Markdown and plots from the cells that are filled; the Markdown (str), '' without any."""
    figures = gather(study, scale, place)
    if not figures.cells:
        return ''
    base = os.path.join(place.kept, '{}-{}'.format(study.name, scale.name))
    write_text(base + '.json', json.dumps(as_json(figures), indent=1) + '\n')
    png, svg = both(study.draw, figures)
    write_bytes(base + '.png', png)
    write_bytes(base + '.svg', svg)
    note = figures.scale.note and figures.scale.note + '\n\n'
    text = note + '\n'.join(_blocks(figures, place, os.path.basename(base))) + '\n'
    write_text(base + '.md', '# {}\n\n'.format(study.name) + text)
    return text


def write_page(place):
    """Write the page of all studies; its path."""
    shown = [gather(study, scale, place) for study in STUDIES.values() for scale in SCALES.values()]
    titles, parts = [], []
    for figures in (figures for figures in shown if figures.cells):
        name = '{}-{}'.format(figures.study.name, figures.asked.name)
        titles.append('- [{0}, {1}](#{0}-{1})'.format(figures.study.name, figures.asked.name))
        blocks = _blocks(figures, place, os.path.join(os.path.basename(place.kept), name))
        parts += ['## {}, {}\n'.format(figures.study.name, figures.asked.name), '\n'.join(blocks) + '\n']
    notes = ['Scale `{}`: {}\n'.format(scale.name, scale.note) for scale in SCALES.values() if scale.note]
    path = place.kept.rstrip(os.sep) + '.md'
    write_text(path, '\n'.join([_LEAD, *notes, '\n'.join(titles) + '\n', *parts]))
    return path


def _blocks(figures, place, base):
    """Lines of Markdown; ``base``: of the files' names, from where the lines are."""
    study = figures.study
    yield '{} ({}). `python -m studies {} --scale {} --data DATA`'.format(
        study.question, study.section, study.name, figures.asked.name)
    yield ''
    yield _state(figures)
    yield ''
    yield from table(figures)
    if study.claims:
        yield ''
        yield from claims_table(figures)
    yield ''
    yield 'What this scale cannot tell: {}'.format(study.limits)
    yield ''
    yield '![{}]({}.png)'.format(study.name, base)
    for cell in study.others(figures.scale):
        picture = place.picture_file(cell.name)
        if os.path.exists(picture):
            yield ''
            yield '![{}]({})'.format(cell.name, os.path.join(os.path.dirname(base), 'cells', os.path.basename(picture)))
    if study.published:
        yield ''
        yield 'Of others, in other settings, and not measured here:'
        yield ''
        yield from published.table(study.published)


def _state(figures):
    """Where the figures come from."""
    contents = list(figures.cells.values())
    seconds = sum(job['seconds'] for content in contents for job in content['jobs'].values())
    machines = sorted({'{processor} ({kind})'.format(**content['machine']) for content in contents})
    cores = sorted({content['machine']['cores'] for content in contents})
    commits = sorted({(content['source'].get('commit') or 'no checkout')[:9] for content in contents})
    dates = sorted({content['date'] for content in contents})
    return '{} of {} cells filled, {} with pauses, on {} a cell of {}; {}; commit {}; TensorFlow {}.'.format(
        len(contents), len(contents) + figures.missing, in_words(seconds),
        ' or '.join('{} core{}'.format(n, 's' * (n > 1)) for n in cores), ', '.join(machines),
        ' to '.join(dict.fromkeys((dates[0], dates[-1]))), ', '.join(commits),
        ', '.join(sorted({content['versions']['tensorflow'] for content in contents})))
