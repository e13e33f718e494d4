"""What was measured, as rows and as text."""
import measure
from gpu import plan

# Half of what NVIDIA's TensorFlow trains clean on one A100 40 GB, mixed precision with XLA, 256 images, 2,375 images/s
# (github.com/NVIDIA/DeepLearningExamples, TensorFlow/Classification/ConvNets/resnet50v1.5): PGD-1 takes two passes.
GOAL_ON_A100, RATE_OF_A100 = 1190, 312e12  # FLOP/s in bfloat16, dense: NVIDIA's data sheet
# NVIDIA's data sheets, dense bfloat16 FLOP/s of the SXM cards; of others the goal is by what was measured.
PUBLISHED = {'A100': RATE_OF_A100, 'H100 80GB HBM3': 989e12, 'H200': 989e12}


def images(said):
    """Of a run: those of a training step, or of an attack each as often as it goes forward and back."""
    return said['batch'] * (1 if said['trains'] else said['passes'])


def rows(exported, found, limits):
    """A dict for each exported step that something was measured of, in the order of the plan.

    Args:
        exported (list of dict): the JSON files. found: {name of a ``plan.Task``: answer}. limits: {precision: FLOP/s}.
    """
    made = []
    for task in plan.tasks(exported, ('XLA',), 'cpu'):
        said, ours = task.said, found.get(task.name, {})
        answers = {way: found.get(plan.Task(said, way).name, {}) for way in plan.ALL_WAYS}
        ways = {way: images(said) / answer['seconds'] for way, answer in answers.items() if 'seconds' in answer}
        best = max(ways, key=ways.get, default=None)
        if 'seconds' not in ours and best is None:
            continue
        row = dict({key: said[key] for key in ('step', 'network', 'precision', 'layout', 'batch', 'operations')},
                   torch=ways, best=best)
        if best:
            row['torch_bytes'] = answers[best]['bytes']
        if 'seconds' in ours:
            row.update(xla=images(said) / ours['seconds'], bytes=ours['bytes'], compiling=ours['compiling'],
                       rate=said['operations'] / ours['seconds'])
            most = limits.get({'float16': 'bfloat16'}.get(said['precision'], said['precision']))
            row['part'] = row['rate'] / most if most else None
            row['ratio'] = row['xla'] / ways[best] if best else None
        made.append(row)
    return made


def _number(value, form='{:,.0f}'):
    return '' if value is None else form.format(value)


def _mib(value):
    return _number(value and value / 2 ** 20)


def text(where, limits, made, left_out):
    """The Markdown: where and with what, the table, the goals, and what was left out."""
    lines = [['step', 'network', 'precision', 'layout', 'images', 'XLA, images/s', "PyTorch's best, images/s", 'way',
              'ratio', 'TFLOP/s', 'part of the matrix rate', 'XLA, MiB', 'PyTorch, MiB']]
    for row in made:
        lines.append([row['step'], row['network'], row['precision'], row['layout'], str(row['batch']),
                      _number(row.get('xla'), '{:,.1f}'), _number(row['torch'].get(row['best']), '{:,.1f}'),
                      row['best'] or '', _number(row.get('ratio'), '{:.2f}'),
                      _number(row.get('rate') and row['rate'] / 1e12, '{:.1f}'), _number(row.get('part'), '{:.0%}'),
                      _mib(row.get('bytes')), _mib(row.get('torch_bytes'))])
    versions = {name: version for side in where['sides'].values() for name, version in side['versions'].items()}
    said = ['', '{}{}; {}; {}'.format(
        where.get('card') or where['machine'], ', driver ' + where['driver'] if 'driver' in where else '',
        ', '.join('{} {}'.format(*each) for each in versions.items()), where['date'])]
    if limits:
        rates = ('{} {:.3g} TFLOP/s'.format(name, limits[name] / 1e12) for name in ('bfloat16', 'tf32', 'float32'))
        said.append('At most: matrix products {}; copies {:.3g} TB/s, read and written'.format(
            ', '.join(rates), limits['copy'] / 1e12))
    return '\n'.join([*said, '', measure.markdown(lines), '', *goals(where, limits, made),
                      *(['Left out, as the time was up: ' + '; '.join(left_out)] if left_out else [])])


def goals(where, limits, made):
    """Lines that hold the training of ResNet-50 against its goals; none without a GPU."""
    found = [row for row in made if (row['step'], row['network']) == ('train', 'resnet50')]
    ours = max((row['xla'] for row in found if 'xla' in row), default=None)
    theirs = max((value for row in found for value in row['torch'].values()), default=None)
    if 'card' not in where or ours is None:
        return []
    rate, whose = next(((rate, 'published') for name, rate in PUBLISHED.items() if name in where['card']),
                       (limits.get('bfloat16', 0), 'measured'))
    goal = GOAL_ON_A100 * rate / RATE_OF_A100
    lines = ["Goal: PGD-1 training of ResNet-50 at more than {:,.0f} images/s ({:,} times the card's {} bfloat16 rate, "
             "{:.0f} TFLOP/s, over an A100's 312): {:,.0f}, {}".format(
                 goal, GOAL_ON_A100, whose, rate / 1e12, ours, 'reached' if ours > goal else 'not reached')]
    if theirs:
        lines.append("Goal: no less than PyTorch's best, {:,.0f} images/s: {:.2f} times that, {}".format(
            theirs, ours / theirs, 'reached' if ours >= theirs else 'not reached'))
    return lines
