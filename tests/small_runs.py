"""The smallest training runs, in this process and under mpirun, and what they leave behind."""
import json
import os
import subprocess
import sys

import checkpoints

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MAIN = os.path.join(ROOT, 'main.py')

NUM_IMAGES, BATCH, STEPS = 11, 4, 3  # 11 / 4 images are rounded to 3 steps an epoch
ATTACKED = ['--arch', 'CifarResNet', '-d', '8', '--input-size', '8', '--num-classes', '2', '--batch', str(BATCH),
            '--attack-iter', '2', '--attack-step-size', '2']
SMALL = ATTACKED + ['--eval-attack-iter', '2']
# The quickest run there is, for what depends on neither data nor attack; beside ATTACKED, as it judges nothing.
LEAN = ['--fake', '--steps-per-epoch', str(STEPS), '--attack-iter', '0']

# Rank number k runs the k-th of several command lines of this Python. mpirun's own way to say it, `:`, ends Open MPI 5.0.7.
_EACH_ITS_OWN = '''
import json, os, sys
os.execv(sys.executable, [sys.executable, *json.loads(sys.argv[1])[int(os.environ['OMPI_COMM_WORLD_RANK'])]])
'''

SECONDS = 180  # until a run of several ranks counts as hanging


def start_training(data, logdir, *flags):
    """Train in this process, on a fresh graph, two epochs unless told otherwise."""
    import tensorflow.compat.v1 as tf

    import main
    with tf.Graph().as_default():
        images = ATTACKED if '--fake' in flags else SMALL + ['--data', data]
        main.main(images + ['--logdir', str(logdir), '--epochs', '2'] + list(flags))


def variables(folder, step):
    return checkpoints.read(str(folder / 'model-{}'.format(step)))


def read_json(path):
    with open(path) as f:
        return json.load(f)


def differing(first, second):
    """Names of the variables that are not equal bit for bit."""
    assert first.keys() == second.keys()
    return [name for name in first if first[name].tobytes() != second[name].tobytes()]


def epochs_in(folder):
    return [entry['epoch_num'] for entry in read_json(folder / 'stats.json')]


def each_its_own(*commands):
    """The command of all ranks with which each runs its own of ``commands`` (lists of words)."""
    return ['-c', _EACH_ITS_OWN, json.dumps([[str(word) for word in command] for command in commands])]


def start_ranks(ranks, *command, cwd, **environment):
    """A job of this Python in several ranks; its output is in pipes."""
    environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT='1', OMPI_ALLOW_RUN_AS_ROOT_CONFIRM='1', PYTHONPATH=ROOT,
                       **environment)
    return subprocess.Popen(['mpirun', '-np', str(ranks), '--oversubscribe', '-bind-to', 'none', sys.executable]
                            + [str(word) for word in command], cwd=cwd, env=environment,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(job, seconds=SECONDS):
    """Its exit code and output; a hang is a failure."""
    try:
        out, err = job.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        job.terminate()  # mpirun ends its ranks; killed, it would leave them
        raise AssertionError('hung; ended with:\n' + job.communicate()[1])
    return subprocess.CompletedProcess(job.args, job.returncode, out, err)


def mpirun(ranks, *command, cwd):
    """Run a program with this Python in several ranks."""
    return wait_for(start_ranks(ranks, *command, cwd=cwd))
