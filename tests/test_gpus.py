"""GPUs: which rank takes which. No machine of these tests has one: TensorFlow's list and CUDA's driver are made up."""
import importlib.util
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import tensorflow.compat.v1 as tf

from machine import gpus
from ranks.launched import Ranks
from ranks.sessions import session_config
from small_runs import ROOT, mpirun


@pytest.mark.parametrize('seen, places', [
    ([['a', 'b'], ['a', 'b']], [0, 1]),  # all GPUs of a machine shown to all of its ranks
    ([['a'], ['b']], [0, 0]),  # one shown to each, as by srun --gpus-per-task=1
    ([['a', 'b'], ['c', 'd']], [0, 0]),  # some shown to each
    ([['a', 'b'], ['b', 'a']], [0, 0]),
    ([['a', 'b', 'c'], ['a', 'b', 'c']], [0, 1]),  # more GPUs than ranks
    ([['a', 'b'], ['a', 'b'], ['c', 'd'], ['c', 'd']], [0, 1, 0, 1]),  # two machines
    ([['a', 'b'], ['c', 'd'], ['a', 'b'], ['c', 'd']], [0, 0, 1, 1]),  # ranks dealt to them in turn
    ([['a'], ['b', 'c'], ['b', 'c']], [0, 0, 1]),  # machines of unlike size
    ([[], []], [0, 0])])
def test_each_rank_takes_a_gpu_of_its_own(seen, places):
    assert gpus.share_out(seen) == places


@pytest.mark.parametrize('seen, message', [
    ([['a'], ['a']], '2 ranks of one machine see 1 GPU, and each rank needs its own: '
                     "mpirun -np 1 python main.py --data 'my images'"),
    ([['a', 'b']] * 3, '3 ranks of one machine see 2 GPUs, and each rank needs its own: '
                       "mpirun -np 2 python main.py --data 'my images'"),
    ([['a', 'b']] * 2 + [['c', 'd']] * 3, '3 ranks of one machine see 2 GPUs, and each rank needs its own: '
                                          "mpirun -np 4 -map-by ppr:2:node python main.py --data 'my images'"),
    ([['a', 'b'], ['a']], '2 ranks of one machine see 2 GPUs, and each rank needs its own: '
                          "mpirun -np 2 python main.py --data 'my images'"),
    ([['a'], []], 'rank 1 sees no GPU, and rank 0 sees 1: give each rank one, or hide them from all by '
                  'CUDA_VISIBLE_DEVICES= to compute on CPUs')])
def test_ranks_that_cannot_have_a_gpu_each_are_refused_with_the_command_to_type(monkeypatch, seen, message):
    monkeypatch.setattr(sys, 'argv', ['main.py', '--data', 'my images'])
    with pytest.raises(ValueError) as refusal:
        gpus.share_out(seen)
    assert str(refusal.value) == message


# CUDA's driver as far as it is asked, with GPUs whose names are sixteen times the letters of GPUS.
CUDA = r'''
#include <stdlib.h>
#include <string.h>
static int started = 0;
static const char *gpus() { return getenv("GPUS"); }
int cuInit(unsigned flags) { started = flags == 0; return 0; }
int cuDeviceGetCount(int *count) { *count = strlen(gpus()); return started ? 0 : 3; }
int cuDeviceGet(int *device, int number) { *device = number + 40; return number < (int)strlen(gpus()) ? 0 : 101; }
int cuDeviceGetUuid_v2(char *name, int device) { memset(name, gpus()[device - 40], 16); return 0; }
'''


@pytest.fixture(scope='module')
def cuda(tmp_path_factory):
    folder = tmp_path_factory.mktemp('cuda')
    (folder / 'cuda.c').write_text(CUDA)
    subprocess.run(['g++', '-x', 'c', '-shared', '-fPIC', '-o', folder / 'libcuda.so.1', folder / 'cuda.c'], check=True)
    return str(folder / 'libcuda.so.1')


def test_gpus_are_known_by_the_names_that_cuda_s_driver_gives_them(monkeypatch, cuda):
    monkeypatch.setattr(gpus, 'DRIVER', cuda)
    monkeypatch.setattr(tf.config, 'list_physical_devices', lambda kind: ['one', 'another'])
    monkeypatch.setenv('GPUS', 'Qa')
    assert gpus.visible() == ['51' * 16, '61' * 16]


def test_where_tensorflow_uses_no_gpu_the_driver_is_not_asked(monkeypatch):
    monkeypatch.setattr(gpus, 'DRIVER', 'none such')
    monkeypatch.setattr(tf.config, 'list_physical_devices', lambda kind: [])
    assert gpus.visible() == []


def test_a_driver_that_does_not_answer_is_an_error_in_one_line(monkeypatch):
    driver = SimpleNamespace(cuInit=lambda _: 0, cuDeviceGetCount=lambda _: 100)
    monkeypatch.setattr(gpus.ctypes, 'CDLL', lambda _: driver)
    monkeypatch.setattr(tf.config, 'list_physical_devices', lambda kind: ['one'])
    with pytest.raises(OSError, match="CUDA's driver: cuDeviceGetCount fails with error 100"):
        gpus.visible()


def test_a_session_takes_the_rank_s_gpu_whatever_its_number_on_the_machine():
    config = session_config(Ranks(5, 8, 1, 4, gpu=0))
    assert config.gpu_options.visible_device_list == '0'
    assert session_config(Ranks(5, 8, 1, 4, gpu=1)).gpu_options.visible_device_list == '1'


# argv: the GPUs that rank 0 sees, and those that rank 1 sees; a file for the place each takes.
RANK = '''
import sys
from machine import gpus
from third_party import utils
gpus.visible = lambda: list(sys.argv[1 + utils.launched_rank()])
ranks = utils.start_ranks()
open(sys.argv[3] + str(ranks.rank), 'w').write('{} {}'.format(ranks.local_rank, ranks.gpu))
'''


@pytest.mark.slow
def test_ranks_that_the_launcher_shows_one_gpu_each_take_these(tmp_path):
    (tmp_path / 'rank.py').write_text(RANK)
    job = mpirun(2, tmp_path / 'rank.py', 'a', 'b', tmp_path / 'took', cwd=tmp_path)
    assert job.returncode == 0, job.stderr
    assert [(tmp_path / name).read_text() for name in ('took0', 'took1')] == ['0 0', '1 0']


@pytest.mark.slow
def test_two_ranks_on_one_gpu_end_together_in_one_line(tmp_path):
    (tmp_path / 'rank.py').write_text(RANK)
    job = mpirun(2, tmp_path / 'rank.py', 'a', 'a', tmp_path / 'took', cwd=tmp_path)
    lines = [line for line in job.stderr.splitlines() if 'error: ' in line]
    assert job.returncode == 2 and not (tmp_path / 'took0').exists() and 'Traceback' not in job.stderr, job.stderr
    assert len(lines) == 1 and 'error: 2 ranks of one machine see 1 GPU, and each rank needs its own: mpirun -np 1 ' \
        in lines[0], job.stderr


@pytest.mark.parametrize('count, ranks', [(0, '2'), (1, '1'), (2, '2'), (8, '2')])
def test_the_demo_starts_no_more_ranks_than_there_are_gpus(monkeypatch, count, ranks):
    monkeypatch.setattr(tf.config, 'list_physical_devices', lambda kind: ['a GPU'] * count)
    command = script('demo').mpirun('--eval')
    assert command[:3] == ['mpirun', '-np', ranks] and command[-1] == '--eval'


@pytest.mark.parametrize('built_for_gpus', [False, True])
@pytest.mark.parametrize('count, devices, not_tried', [
    (0, ['/cpu:0'], 'TensorFlow sees no GPU here. Set up for GPUs, tried on CPUs only'),
    (1, ['/cpu:0'], 'TensorFlow sees one GPU here. Set up for GPUs, tried without an exchange over NCCL'),
    (2, ['/cpu:0', '/gpu:0'], None)])
def test_the_self_check_never_asks_for_two_ranks_on_one_gpu_and_says_what_it_could_not_try(
        monkeypatch, capsys, built_for_gpus, count, devices, not_tried):
    started = []

    def note(command, env, check):
        assert check and command[command.index('-np') + 1] == '2'
        started.append(command[-1])
        assert command[-1] == '/gpu:0' or env['CUDA_VISIBLE_DEVICES'] == ''
    monkeypatch.setattr(tf.config, 'list_physical_devices', lambda kind: ['a GPU'] * count)
    monkeypatch.setattr(subprocess, 'run', note)
    selfcheck = script('selfcheck')
    monkeypatch.setattr(selfcheck.hvd, 'nccl_built', lambda: built_for_gpus)
    selfcheck.main()
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith('note: ')]
    assert started == devices and len(notes) == bool(built_for_gpus and not_tried)
    assert all(not_tried in note for note in notes)


def script(name):
    """A program of scripts/, as a module."""
    spec = importlib.util.spec_from_file_location(name, os.path.join(ROOT, 'scripts', name + '.py'))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
