"""Running a document's command as it stands: in a folder where everything that it names is, with little work to do."""
import contextlib
import glob
import os
import re
import secrets
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple, Tuple

from documented import ROOT, as_script, program_of
from documented_material import ZOO

SECONDS = 900  # until a command counts as hanging
READY = 60  # until a data server does

# --- all that is changed in a command ---------
# What the documents leave to the reader: models and their flags as in Feature Denoising's table, and other words in
# capitals. Each choice is a command of its own.
_MODEL, _FLAGS, _STEPS = '/path/to/model_checkpoint', '[--architecture-flags]', '[INTEGER]'
MODELS = {'R152.npz': '--arch ResNet -d 152', 'R152-Denoise.npz': '--arch ResNetDenoise -d 152',
          'X101-DenoiseAll.npz': '--arch ResNeXtDenoiseAll -d 101'}
TRAINED = '--arch ResNetDenoise -d 50'
_WORDS = {'NETWORK': '--arch CifarResNet -d 8 --activation-name silu', 'FLAGS': '', '...': '', 'I/N': '0/1',
          'results/.../results.json': 'judged/results.json',
          '--ckpt_path=...': '--ckpt_path=efficientnet-b0/efficientnet-b0',
          '--data_dir=...': '--data_dir=/path/to/tfrecords', 'ENV/bin/python': 'python',
          'torch-env/bin/python': 'python'}
# Folders of the working directory; this machine alone; as many ranks as it may have cores.
_PLACES = ((r'(?<![\w.])/(path/to|data)/', r'\1/'), (r'(?<=mpirun )-np \d+ ', '-np {ranks} '), (r'-H \S+ ', ''),
           (r'sbatch (--\S+ )*', 'bash '), (r'^(?=[\w/-]+\.py )', 'python '))
# Flags added behind the command's own, which they replace: little work, and a server of this test's own. Servers and
# trainers of networks for 224 pixels take smaller images.
_SERVED = '--batch 4 --workers 1 --address {address}'
_TRAINED, _FROM_SERVER = '--batch 4 --epochs 1 --steps-per-epoch 1', ' --serve-address {address}'
_SMALL_IMAGES = ' --input-size 64'
_TINY = '--arch CifarResNet -d 8 --input-size 32 --batch 4'
_LITTLE = {
    'main.py --eval': '--batch 2', 'main.py --eval-directory': '--batch 2',
    'efficientnet/main.py': '--eval_batch_size=2',
    'analysis sweep': '--images 22 --steps 1,2 --epsilons 0,4 --queries 2 --attack-iter 2 --input-size 64',
    'analysis landscape': '--images 1 --grid 3 --input-size 64',
    'analysis transfer': '--images 2 --attack-iter 2 --input-size 64',
    'analysis report': '--images 22 --steps 1,2 --epsilons 0,4 --queries 2 --grid 3 --landscapes 1 --hardest 1 '
                       '--attack-iter 2 --input-size 64',
    'benchmarks/attack_agreement.py': '--images 2 --batch 2',
    'benchmarks/attack_speed.py': '--repeats 1 --input-size 32 --batch 2 --attack-iter 1',
    'benchmarks/ensemble_speed.py': '--images 4 --batch 4',
    'benchmarks/gpu_export.py': "--steps pgd --precisions float32 --layouts NHWC --batch 2 --network "
                                "'little: --arch CifarResNet -d 8 --input-size 8 --num-classes 10'",
    'benchmarks/memory.py': '--repeats 1 --steps 1 --input-size 32 --batch 4',
    'benchmarks/scaling.py': '--repeats 1 --steps 1 ' + _TINY,
    'benchmarks/serve_data.py': '--repeats 1 --seconds 1 --batch 4 --input-size 64',
    'benchmarks/startup.py': '--repeats 1 --input-size 64 --batch 2',
    'benchmarks/train_speed.py': '--repeats 1 --steps 1 --input-size 32 --batch 2',
    'benchmarks/training_step.py': '--steps 1 --input-size 32 --batch 2',
    'benchmarks/zmq_throughput.py': '--repeats 1 --seconds 0.2 --receivers 1 --batch 4'}
_OF_VARIANTS = ('benchmarks/memory.py', 'benchmarks/train_speed.py')  # of which one is enough
# What a document takes as done before.
_BEFORE = {'judged/results.json': 'python main.py --eval --load CKPT --data D -d 50 --attack-iter 2 --input-size 64 '
                                  '--results-dir judged'}
# As the documents ask for with root and few cores; without GPUs, of which each rank would want its own, and
# without a network between machines.
_MPI = {'CUDA_VISIBLE_DEVICES': '', 'OMPI_ALLOW_RUN_AS_ROOT': '1', 'OMPI_ALLOW_RUN_AS_ROOT_CONFIRM': '1',
        'OMPI_MCA_rmaps_base_oversubscribe': '1', 'PRTE_MCA_rmaps_default_mapping_policy': ':oversubscribe',
        'NCCL_IB_CUDA_SUPPORT': '0', 'NCCL_IB_DISABLE': '1', 'NCCL_DEBUG': 'WARN'}
# What Slurm tells a job on one node; mpirun is not to look for more of it.
_JOB = {'SLURM_JOB_ID': '1', 'SLURM_JOB_NUM_NODES': '1', 'SLURM_SUBMIT_DIR': '.', 'RANKS_PER_NODE': '2', 'BATCH': '4',
        **{mpi + name: '^slurm' for mpi in ('OMPI_MCA_', 'PRTE_MCA_') for name in ('ras', 'plm')}}
# ---------------------------------------------

RANKS = 2
SERVER = 'third_party/serve-data.py'


class Run(NamedTuple):
    """A command with everything filled in, and the data servers that its document starts before it, one a machine."""
    text: str
    servers: Tuple[str, ...] = ()

    @property
    def mode(self):
        """What it does: the program, with the mode where it has several; 'train' and 'serve' alike for job scripts."""
        return mode_of(self.text)


def mode_of(text):
    text = as_script(text)
    program = program_of(text)
    if program == 'sbatch':
        return 'main.py --eval' if 'slurm/eval.sh' in text else 'train'
    if program == SERVER:
        return 'serve'
    if program == 'main.py':
        modes = re.findall(r' --eval(?:-directory)?(?= )', text)
        return 'main.py' + modes[0] if modes else 'train'
    if program == 'analysis':
        return re.search(r'analysis( \w+)?', text).group()
    return program


def runs_of(command, block):
    """The ``Run``s of a documented command; ``block``: the commands around it, its data servers among them."""
    servers = tuple(_filled(other.text) for other in block if other.program == SERVER)
    mode = mode_of(command.text)
    for text in _choices(command.text, '10' if mode == 'main.py --eval' else '30'):
        yield Run(_filled(text), servers if mode == 'train' and command.program == 'main.py' else ())


def _choices(text, steps):
    text = text.replace(_STEPS, steps)
    if _MODEL not in text:
        return [text.replace(_FLAGS, TRAINED)]
    # All of them by one process, one by several.
    models = MODELS.items() if 'mpirun' not in text else list(MODELS.items())[:1]
    return [text.replace(_MODEL, name).replace(_FLAGS, flags) for name, flags in models]


def flags_of(run):
    """The flags of ``run`` as its program gets them, without what makes it little work."""
    text = _placed(as_script(run.text))
    words = shlex.split(text)
    if program_of(run.text) == 'sbatch':
        script = next(number for number, word in enumerate(words) if word.endswith('.sh'))
        flags = words[script + 1:] if len(words) != script + 2 else words[script + 1].split()
        data = [word.split('=', 1)[1] for word in words[:script] if word.startswith('DATA=')]
        return ['--data', data[0] if data else 'data/imagenet'] + flags
    program = os.path.basename(program_of(run.text))
    return words[[os.path.basename(word) for word in words].index(program) + 1:]


def _filled(text):
    words = (_WORDS.get(word, word) for word in text.split(' '))
    return ' '.join(word for word in words if word)


def _placed(text, ranks=RANKS):
    for pattern, replacement in _PLACES:
        text = re.sub(pattern, replacement.format(ranks=ranks), text)
    return text


def adapted(run, address):
    """What is typed for ``run``: (a line for each server, the command's own line)."""
    small = _SMALL_IMAGES if run.mode in ('train',
                                          'serve') and '--input-size' not in ' '.join((run.text, *run.servers)) \
        else ''
    servers = run.servers or ((run.text,) if run.mode == 'serve' else ())
    served = ['{} {}{}'.format(_placed(text), _SERVED.format(address=address + str(number)), small)
              for number, text in enumerate(servers)]
    text = _placed(run.text, max(RANKS, len(servers)))
    if run.mode == 'train':
        # A process by itself, without a server beside it, reads the images.
        alone = program_of(run.text) == 'main.py' and not servers and 'mpirun' not in text
        little = _TRAINED + ('' if alone else _FROM_SERVER.format(address=address + '0')) + small
    elif run.mode == 'main.py --eval' and ('mpirun' in text or '.sh ' in text):  # an image for each rank
        little = '--batch 1'
    else:
        little = _LITTLE.get(run.mode, '')
        if run.mode in _OF_VARIANTS and '--variant' not in text:
            little += " --variant 'one:'"
    if text.endswith('"'):  # a job script's flags in one word
        return served, '{} {}"'.format(text[:-1], little)
    if len(servers) > 1:  # each rank is a machine
        program = re.search(r'(\S*python|sat) .*', text).group()
        text, little = text.replace(program, "sh -c 'exec {} {}'".format(program, little.replace(
            address + '0', address + '$OMPI_COMM_WORLD_RANK'))), ''
    return served, ' '.join((text, little)).strip()


def _is_program(path):
    with open(path) as f:
        return path.endswith('.sh') or "__name__ == '__main__'" in f.read()


class Workplace:
    """A folder with this checkout's programs, and all that a command names.

    Args:
        folder (path): an empty one. material (Material). run (Run).
    """

    def __init__(self, folder, material, run):
        self.folder, self.run = str(folder), run
        # Not the folders of modules alone, which the environment knows: a reader's images may be in `data`.
        for name in {os.path.relpath(path, ROOT).split(os.sep)[0] for ending in ('py', 'sh') for depth in ('', '*/')
                     for path in glob.glob(os.path.join(ROOT, depth + '*.' + ending)) if _is_program(path)} - {'tests'}:
            self._link(os.path.join(ROOT, name), name)
        for place, source in material.places(as_script(run.text)):
            self._link(source, place)
        # `source .venv/bin/activate`, with the interpreter of the tests.
        for name in ('python', 'python3'):
            self._write_program(name, 'exec {} "$@"'.format(shlex.quote(sys.executable)))
        self._write_program('sat', 'exec {} -m sat "$@"'.format(shlex.quote(sys.executable)))
        self._write_program('srun', 'while [[ $1 == --* ]]; do shift; done',
                            'SLURM_PROCID=0 SLURM_NTASKS=1 exec "$@"')

    def _link(self, source, place):
        path = os.path.join(self.folder, place)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.symlink(source, path)

    def _write_program(self, name, *lines):
        path = os.path.join(self.folder, '.venv', 'bin', name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o755), 'w') as f:
            f.write('\n'.join(('#!/bin/bash',) + lines) + '\n')

    def variables(self):
        """What is set in the environment of a machine that has been set up."""
        found = {'PATH': '{}:{}'.format(os.path.join(self.folder, '.venv', 'bin'), os.environ['PATH']),
                 'SAT_ZOO': os.path.join(self.folder, ZOO)}
        if '--data' not in self.run.text and self.run.mode == 'main.py --eval':
            found['SAT_DATA'] = os.path.join(self.folder, 'path', 'to', 'imagenet')
        return found

    def execute(self):
        """Run the command, beside its data servers. Returns: subprocess.CompletedProcess."""
        address = 'ipc://@documented-{}-'.format(secrets.token_hex(8))
        served, text = adapted(self.run, address)
        environment = dict({name: value for name,
                            value in os.environ.items() if not name.startswith(('SLURM', 'SAT_'))},
                           **_MPI, **self.variables())
        if program_of(self.run.text) == 'sbatch':
            environment.update(_JOB, HOME=self.folder, SERVE_FLAGS='--workers 1 --address {}0{}'.format(
                address, _SMALL_IMAGES))
        with contextlib.ExitStack() as stack:
            servers = [stack.enter_context(self._started(line, environment)) for line in served]
            for server in servers:
                self._wait_until_ready(server)
            if self.run.mode == 'serve':
                return subprocess.CompletedProcess(served[0], *_stop(servers[0]))
            for line in [prepared for name, prepared in _BEFORE.items() if name in text] + [text]:
                with self._started(line, environment) as process:
                    code, out, err = _wait_for(process)
                if code:
                    break
            return subprocess.CompletedProcess(line, code, out, err)

    @contextlib.contextmanager
    def _started(self, line, environment):
        with tempfile.TemporaryFile('w+') as out, tempfile.TemporaryFile('w+') as err:
            process = subprocess.Popen(['bash', '-c', line], cwd=self.folder, env=environment, stdin=subprocess.DEVNULL,
                                       stdout=out, stderr=err, start_new_session=True)
            process.written = out, err
            try:
                yield process
            finally:
                _stop(process)

    def _wait_until_ready(self, server):
        deadline = time.time() + READY
        while not re.search('(serve-data|sat serve): ready', _read(server)[0]):
            assert server.poll() is None and time.time() < deadline, _read(server)
            time.sleep(0.1)


def _wait_for(process):
    try:
        process.wait(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        raise AssertionError('hung; ended with: {}'.format(_stop(process)))
    return (process.returncode, *_read(process))


def _stop(process):
    """Ask it and all its children to end; kill what does not."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=30)
            break
    return (process.returncode, *_read(process))


def _read(process):
    return tuple(os.pread(f.fileno(), 1 << 24, 0).decode() for f in process.written)
