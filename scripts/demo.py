"""The whole system in one command (`make demo`): data server, mpirun, adversarial training, evaluation, a table.

Trains CifarResNet-8 with SiLU on scikit-learn's handwritten digits by two ranks (one where there is only one GPU), on
clean images and on attacked ones, judges both clean and under PGD, and writes a table, training curves and pictures to
train_log/demo/ of the folder that it is started in. An earlier demo is kept, renamed.

Its table shows that the whole system works, and what adversarial training is for. Digits are too few and too easy to
tell one activation from another: that is what the studies are for (docs/results.md), whose figures stand beside it.
"""
import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
from machine.quiet_tensorflow import quieten_tensorflow

quieten_tensorflow(level=3)

OUT = os.path.join('train_log', 'demo')
ACTIVATION = 'silu'
# Log directories, what their networks are trained on, and the flags of that.
RUNS = {'silu-clean': ('clean images', ['--attack-iter', '0']), 'silu': ('attacked images', ['--attack-iter', '3'])}
EVALUATION_STEPS = (10, 50)
PYTHON, MAIN, SERVER = (os.path.relpath(path) for path in (
    sys.executable, os.path.join(ROOT, 'main.py'), os.path.join(ROOT, 'third_party', 'serve-data.py')))
EPSILON = 32
NETWORK = ['--arch', 'CifarResNet', '-d', '8', '--activation-name', ACTIVATION]
# A short schedule for a small data set: this is a demonstration, not a recipe of the papers.
TRAINING = ['--batch', '32', '--attack-epsilon', str(EPSILON), '--attack-step-size', '16',
            '--prob-start-from-clean', '0', '--epochs', '10', '--base-lr', '0.4', '--warmup-epochs', '0',
            '--lr-drop-epochs', '8', '--eval-every', '2', '--serve-timeout', '120']


def say(text):
    print(text, flush=True)


@contextlib.contextmanager
def running(command, log):
    """Start ``command`` with its output in the file ``log``; it has ended when the block is left, however that is."""
    say('$ ' + ' '.join(shlex.quote(word) for word in command))
    with open(log, 'w') as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def follow(command, log, server, interesting):
    """Run ``command`` to its end, showing what in its log matches the pattern ``interesting``.

    Raises:
        SystemExit: it failed, or the data server died; says which log to read.
    """
    with running(command, log) as process, open(log) as lines:
        while True:
            done = process.poll() is not None
            for line in lines:
                found = re.search(interesting, line)
                if found:
                    say('    ' + found.group())
            if done:
                break
            if server.poll() is not None:
                sys.exit('demo: the data server ended; see {}'.format(os.path.join(OUT, 'serve-data.log')))
            time.sleep(0.3)
    if process.returncode:
        sys.exit('demo: this command failed with exit code {}; see {}'.format(process.returncode, log))


def num_ranks():
    """Two, on CPUs or on a GPU each; one where there is only one GPU."""
    import tensorflow.compat.v1 as tf
    return min(2, len(tf.config.list_physical_devices('GPU'))) or 2


def mpirun(*arguments):
    return ['mpirun', '-np', str(num_ranks()), PYTHON, MAIN, *NETWORK, *arguments]


def run(name):
    return os.path.join(OUT, name)


def keep_earlier():
    number = 1
    while os.path.exists('{}-{}'.format(OUT, number)):
        number += 1
    if os.path.exists(OUT):
        os.rename(OUT, '{}-{}'.format(OUT, number))
    os.makedirs(OUT)


def percent(part):
    low, high = (100 * (1 - e) for e in reversed(part['top1_error_95']))
    return '{:.1f} ({:.1f}-{:.1f})'.format(100 * (1 - part['top1_error']), low, high)


def make_table(results):
    """Markdown table of accuracies from ``results``: (name of a run, steps) to the content of results.json."""
    lines = ['| trained on | clean | ' + ' | '.join('PGD-{}'.format(k) for k in EVALUATION_STEPS) + ' |',
             '|---' * (2 + len(EVALUATION_STEPS)) + '|']
    for name, (images, _) in RUNS.items():
        row = [results[name, k] for k in EVALUATION_STEPS]
        cells = [images, percent(row[0]['clean'])] + [percent(r['adversarial']) for r in row]
        lines.append('| ' + ' | '.join(cells) + ' |')
    lines.append('')
    lines.append('Accuracy in % (95% interval) on {} images of digits, SiLU; untargeted PGD, L-infinity, epsilon {} of '
                 '255, random start; chance is 10%.'.format(row[0]['num_images'], EPSILON))
    return '\n'.join(lines)


def activations_compared():
    """What the study of activations has found so far, in a line; where to read it, without one."""
    try:
        with open(os.path.join(ROOT, 'docs', 'results', 'activations-small.json')) as f:
            arms = {arm['arm']: arm['figures'] for arm in json.load(f)['arms']}
        pair = ['{} {:.1f} clean and {:.1f} under PGD-50 ({} seed{})'.format(
            name, 100 * arms[name]['clean']['mean']['value'], 100 * arms[name]['PGD']['mean']['value'],
            arms[name]['PGD']['mean']['count'], 's' * (arms[name]['PGD']['mean']['count'] > 1))
            for name in ('relu', ACTIVATION)]
    except (OSError, KeyError):
        pair = []
    return 'Which activation is better is no question for digits. On CIFAR-10: {}docs/results.md'.format(
        '; '.join(pair) + '; see ' if pair else 'see ')


def main():
    begin = time.time()
    os.environ.pop('SAT_DATA', None)  # the digits it is, on every machine
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    keep_earlier()
    results = {}
    with running([PYTHON, SERVER, '--batch', '32', '--input-size', '32'],
                 run('serve-data.log')) as server:
        for name, (_, attack) in RUNS.items():
            follow(mpirun(*TRAINING, *attack, '--logdir', run(name)), run(name + '.log'), server, r'^epoch \d+/.*')
        for name in RUNS:
            for steps in EVALUATION_STEPS:
                folder = run('{}-pgd{}'.format(name, steps))
                follow(mpirun('--eval', '--load', run(name), '--attack-iter', str(steps),
                              '--attack-epsilon', str(EPSILON), '--attack-step-size', '4', '--batch', '64',
                              '--results-dir', folder), folder + '.log', server, '^(Clean )?Top1 Error.*')
                with open(os.path.join(folder, 'results.json')) as f:
                    results[name, steps] = json.load(f)
    from demo_figures import draw_curves, draw_images
    runs = {'trained on ' + images: run(name) for name, (images, _) in RUNS.items()}
    draw_curves(runs, run('curves.png'))
    draw_images(NETWORK, runs, EPSILON, run('images.png'))
    table = make_table(results) + '\n\n' + activations_compared()
    with open(run('table.md'), 'w') as f:
        f.write(table + '\n')
    say('\n' + table)
    say('\nTable, curves and pictures are in {}/ ({:.0f} s)'.format(OUT, time.time() - begin))


if __name__ == '__main__':
    try:
        main()
    except KeyboardInterrupt:
        sys.exit('demo: interrupted; everything it started has been stopped')
