"""Which set of versions `make setup` takes, and the wheel of Horovod that it keeps."""
import glob
import os
import shutil
import stat
import subprocess
import threading

import pytest

import horovod_wheel
from small_runs import ROOT

TOOLS = ('bash', 'sed', 'awk', 'sort', 'cut', 'uniq', 'grep', 'dirname')


@pytest.fixture
def checkout(tmp_path):
    """function(versions of Python on the PATH, ...) -> what `setup.sh choice` does in a checkout with three sets."""
    shutil.copytree(os.path.join(ROOT, 'scripts'), tmp_path / 'scripts')
    (tmp_path / 'constraints').mkdir()
    for tensorflow, pythons in ('2.9.0', '3.8 3.9'), ('2.15.1', '3.9 3.11'), ('2.21.0', '3.11 3.13'):
        (tmp_path / 'constraints' / 'tensorflow-{}.txt'.format(tensorflow)).write_text('# A set.\n# Python: ' + pythons)
    (tmp_path / 'bin').mkdir()
    for tool in TOOLS:
        (tmp_path / 'bin' / tool).symlink_to(shutil.which(tool))

    def choice(*pythons, **environment):
        for version in pythons:
            make_python(tmp_path / 'bin' / ('python' + version), version)
        return subprocess.run(['bash', str(tmp_path / 'scripts' / 'setup.sh'), 'choice'], text=True,
                              capture_output=True,
                              env={'PATH': str(tmp_path / 'bin'), **environment})
    return choice


def make_python(path, version, status=0):
    """A program that says it is a Python; with another status a shim that finds none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('#!/bin/sh\necho {}\nexit {}\n'.format(version, status))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def chosen(ended):
    assert ended.returncode == 0, ended.stderr
    python, tensorflow, path = ended.stdout.split()
    return python, tensorflow, os.path.basename(path)


def test_the_newest_python_on_the_path_gets_the_newest_tensorflow_that_serves_it(checkout):
    assert chosen(checkout('3.9')) == ('3.9', '2.15.1', 'python3.9')
    assert chosen(checkout('3.9', '3.11')) == ('3.11', '2.21.0', 'python3.11')
    assert chosen(checkout('3.14')) == ('3.11', '2.21.0', 'python3.11')  # of which there is no set


def test_a_shim_that_finds_no_python_is_passed_over(checkout, tmp_path):
    make_python(tmp_path / 'bin' / 'python3.13', '3.13', status=127)
    make_python(tmp_path / 'bin' / 'python3', '3.9')
    assert chosen(checkout()) == ('3.9', '2.15.1', 'python3')


@pytest.mark.parametrize('asked, found', [
    ({'PYTHON': 'python3.9'}, ('3.9', '2.15.1', 'python3.9')),
    ({'PYTHON': '3.9'}, ('3.9', '2.15.1', 'python3.9')),
    ({'PYTHON': '3.9', 'TENSORFLOW': '2.9'}, ('3.9', '2.9.0', 'python3.9')),
    ({'TENSORFLOW': '2.15'}, ('3.11', '2.15.1', 'python3.11')),
    ({'TENSORFLOW': '2.9.0'}, ('3.9', '2.9.0', 'python3.9'))])
def test_python_and_tensorflow_choose(checkout, asked, found):
    assert chosen(checkout('3.9', '3.11', '3.13', **asked)) == found


@pytest.mark.parametrize('asked, said', [
    ({'PYTHON': 'python3.14'}, 'no tested set of Python 3.14'),
    ({'PYTHON': '3.13', 'TENSORFLOW': '2.15'}, 'no tested set of Python 3.13 with TensorFlow 2.15'),
    ({'TENSORFLOW': '2.1'}, 'no tested set of TensorFlow 2.1')])  # which is neither 2.15 nor 2.21
def test_a_set_that_does_not_exist_is_refused_in_one_line_with_those_that_do(checkout, asked, said):
    ended = checkout('3.9', '3.13', '3.14', **asked)
    assert ended.returncode == 2 and ended.stderr.count('\n') == 1 and said in ended.stderr
    assert ended.stderr.endswith('there are: Python 3.13 with TensorFlow 2.21.0, Python 3.11 with TensorFlow 2.21.0, '
                                 'Python 3.11 with TensorFlow 2.15.1, Python 3.9 with TensorFlow 2.15.1, '
                                 'Python 3.9 with TensorFlow 2.9.0, Python 3.8 with TensorFlow 2.9.0\n')


def test_a_python_that_is_not_there_is_named(checkout):
    assert checkout('3.9', PYTHON='/nowhere/python3.9').stderr == 'setup: PYTHON=/nowhere/python3.9 does not run\n'
    assert checkout('3.9', PYTHON='3.11').stderr == 'setup: no Python 3.11 on the PATH\n'


def test_an_environment_stays_what_it_is_until_another_is_asked_for(checkout, tmp_path):
    make_python(tmp_path / 'env' / 'bin' / 'python', '3.9')
    (tmp_path / 'env' / 'set').write_text('3.9 2.9.0\n')
    assert chosen(checkout('3.9', '3.13', VENV='env')) == ('3.9', '2.9.0', 'python')
    assert chosen(checkout(VENV='env', PYTHON='3.13')) == ('3.13', '2.21.0', 'python3.13')
    (tmp_path / 'env' / 'set').write_text('3.9 2.8.0\n')  # a set that is no more
    assert chosen(checkout(VENV='env')) == ('3.13', '2.21.0', 'python3.13')


def test_an_environment_stays_for_gpus_until_another_is_asked_for(checkout, tmp_path):
    def said(**environment):
        return checkout('3.9', VENV='env', **environment).stdout.split()[3:]
    assert said() == [] and said(GPU='1') == ['for', 'GPUs']
    site = tmp_path / 'env' / 'lib' / 'python3.9' / 'site-packages'
    (site / 'tensorflow_estimator-2.9.0.dist-info').mkdir(parents=True)
    (site / 'tensorflow_cpu-2.9.0.dist-info').mkdir()
    assert said() == []
    (site / 'tensorflow_cpu-2.9.0.dist-info').rename(site / 'tensorflow-2.9.0.dist-info')
    assert said() == ['for', 'GPUs'] and said(GPU='0') == []


@pytest.mark.parametrize('has, gpu, anew', [
    ('tensorflow_cpu', '1', True), ('tensorflow', '0', True), ('tensorflow_cpu', '0', False),
    ('tensorflow', '1', False), ('tensorflow', '', False), ('tensorpack', '1', False)])
def test_an_environment_is_made_anew_where_the_other_tensorflow_is_in_it(checkout, tmp_path, has, gpu, anew):
    """Both are one folder, of two distributions: pip would put one over the other, and each would seem installed."""
    (tmp_path / 'env' / 'lib' / 'python3.9' / 'site-packages' / (has + '-2.9.0.dist-info')).mkdir(parents=True)
    python = tmp_path / 'env' / 'bin' / 'python'
    make_python(python, '3.9')
    python.write_text(python.read_text().replace('echo', 'echo "$@" >>"$0.calls"; echo'))
    (tmp_path / 'env' / 'set').write_text('3.9 2.9.0\n')
    subprocess.run(['bash', '-c', 'source "$0" sets; choose_set; make_venv', str(tmp_path / 'scripts' / 'setup.sh')],
                   check=True, env={'PATH': str(tmp_path / 'bin'), 'VENV': 'env', 'GPU': gpu})
    assert ('-m venv --clear env' in (tmp_path / 'env' / 'bin' / 'python.calls').read_text().splitlines()) == anew


def test_gpu_is_yes_or_no(checkout):
    ended = checkout('3.9', GPU='yes')
    assert ended.returncode == 2 and ended.stderr == 'setup: GPU=yes: must be 1 (CUDA builds) or 0 (CPUs)\n'


def test_a_step_of_which_a_part_fails_ends_the_set_up(tmp_path):
    for folder in 'scripts', 'constraints':
        shutil.copytree(os.path.join(ROOT, folder), tmp_path / folder)
    for name in 'requirements.txt', 'requirements-test.txt', 'pyproject.toml':
        shutil.copy(os.path.join(ROOT, name), tmp_path)
    for part, command in (('third_party/zmq_ops', 'false'), ('native/smooth_ops', 'true'), ('native/jpeg_part', 'true'),
                          ('native/resampling', 'true')):
        (tmp_path / part).mkdir(parents=True)
        (tmp_path / part / 'Makefile').write_text('all:\n\t' + command)
    make_python(tmp_path / 'env' / 'bin' / 'python', '3.11')  # it does all that it is asked for, and answers 3.11
    (tmp_path / '3.11').mkdir()  # so that this is its folder of packages too
    (tmp_path / 'env' / 'set').write_text('3.11 2.15.1\n')
    ended = subprocess.run(['bash', str(tmp_path / 'scripts' / 'setup.sh')], text=True, capture_output=True,
                           env=dict(os.environ, VENV='env', PYTHON='', TENSORFLOW='', GPU=''))
    assert ended.returncode == 1 and 'C++ (zmq_ops, smooth_ops, jpeg_part, resampling)' in ended.stderr.splitlines()[-1]
    assert ended.stdout.endswith(' failed\n') and not (tmp_path / 'env' / 'setup-done').exists()


def test_every_set_pins_all_that_is_asked_for():
    def names(path):
        with open(os.path.join(ROOT, path)) as f:
            return {line.split('==')[0].strip() for line in f if line.strip() and not line.startswith('#')}

    sets = glob.glob(os.path.join(ROOT, 'constraints', '*.txt'))
    assert len(sets) >= 2
    for path in sets:
        assert names('requirements.txt') | names('requirements-test.txt') <= names(path), path


# The wheel of Horovod.

FACTS = {'python': 'cp312', 'tensorflow': 'tensorflow-2.21.0', 'mpi': 'mpirun (Open MPI) 4.1.4', 'script': 'ab' * 32}


@pytest.fixture
def wheels(monkeypatch, tmp_path):
    """Lists of the wheels that were built and of what was installed, on a machine where both are quick."""
    built, installed = [], []

    def build(folder, gpu):
        built.append(folder)
        path = os.path.join(folder, 'horovod-0.28.1-cp312-cp312-linux_x86_64.whl')
        with open(path, 'wb') as f:
            f.write(b'wheel %d' % len(built))
        return path

    def install(wheel):
        with open(wheel, 'rb') as f:
            installed.append(f.read())

    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    monkeypatch.setattr(horovod_wheel, 'facts', lambda gpu: dict(FACTS))
    monkeypatch.setattr(horovod_wheel, 'build', build)
    monkeypatch.setattr(horovod_wheel, 'install', install)
    monkeypatch.setattr(horovod_wheel, 'works', lambda gpu: works.pop(0))
    works = []
    built_and_installed = built, installed

    def set_up(*answers):
        works[:] = answers or (False, True)
        horovod_wheel.main(gpu=False)
        return built_and_installed
    return set_up


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    return horovod_wheel.wheel_folder(FACTS)


def test_a_wheel_is_built_once_and_installed_from_then_on(wheels, folder):
    wheels()
    built, installed = wheels()
    assert len(built) == 1 and installed == [b'wheel 1', b'wheel 1']
    assert sorted(os.listdir(folder)) == ['horovod-0.28.1-cp312-cp312-linux_x86_64.whl', 'lock', 'receipt']
    assert os.path.relpath(folder, os.environ['XDG_CACHE_HOME']).startswith('smooth-adversarial-training/wheels/cp312-')


def test_an_environment_that_has_horovod_is_left_alone(wheels):
    assert wheels(True) == ([], [])


@pytest.mark.parametrize('name, content', [
    ('*.whl', b'wheel 2'),       # a bit that flipped
    ('*.whl', b''),
    ('receipt', b''),            # killed in between
    ('receipt', b'\xff\xfe'),
    ('receipt', 'cp313')])       # a folder that was copied here from another set
def test_a_damaged_or_foreign_wheel_is_built_anew(wheels, folder, name, content):
    wheels()
    path, = glob.glob(os.path.join(folder, name))
    with open(path, 'rb') as f:
        before = f.read()
    with open(path, 'wb') as f:
        f.write(content if isinstance(content, bytes) else before.replace(b'cp312', content.encode()))
    built, installed = wheels()
    assert len(built) == 2 and installed == [b'wheel 1', b'wheel 2']
    wheels()
    assert len(built) == 2 and installed[-1] == b'wheel 2'


def test_another_user_s_wheel_is_not_taken(wheels, monkeypatch):
    wheels()
    monkeypatch.setattr(os, 'geteuid', lambda: os.getuid() + 1)
    assert wheels()[1] == [b'wheel 1', b'wheel 2']


def test_a_kept_wheel_that_does_not_work_is_built_anew(wheels):
    wheels()
    assert wheels(False, False, True)[1] == [b'wheel 1', b'wheel 1', b'wheel 2']


def test_a_wheel_that_cannot_be_kept_whole_is_installed_all_the_same(wheels, folder, monkeypatch, capsys):
    def copy_half(source, target):
        with open(target, 'wb') as f:
            f.write(b'whe')
        raise OSError(28, 'No space left on device')

    with monkeypatch.context() as full:
        full.setattr(shutil, 'copyfile', copy_half)
        assert wheels()[1] == [b'wheel 1']
    assert 'not kept' in capsys.readouterr().out and not glob.glob(os.path.join(folder, '*.whl'))
    assert wheels()[1] == [b'wheel 1', b'wheel 2']


def test_a_cache_that_is_no_folder_does_not_stop_the_set_up(wheels, tmp_path, monkeypatch):
    (tmp_path / 'file').touch()
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
    assert wheels()[1] == [b'wheel 1']


def test_a_build_does_not_depend_on_what_the_shell_exports_for_horovod(monkeypatch):
    seen = []
    monkeypatch.setattr(subprocess, 'run', lambda command, check, env: seen.append(env))
    monkeypatch.setenv('HOROVOD_GPU_ALLREDUCE', 'MPI')
    monkeypatch.setenv('HOROVOD_WITH_MPI', '0')
    horovod_wheel.pip('wheel', HOROVOD_WITH_MPI='1')
    assert seen == [dict({name: value for name, value in os.environ.items() if name != 'HOROVOD_GPU_ALLREDUCE'},
                         HOROVOD_WITH_MPI='1')]


def test_a_horovod_that_does_not_work_is_an_error(wheels):
    with pytest.raises(SystemExit, match='does not work'):
        wheels(False, False)


def test_of_two_set_ups_at_once_one_waits_for_the_other(folder):
    order = []

    def second():
        with horovod_wheel.alone(folder):
            order.append('second')

    with horovod_wheel.alone(folder):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.2)
        order.append('first')
    thread.join()
    assert order == ['first', 'second']


def test_the_folder_tells_apart_whatever_a_wheel_depends_on(monkeypatch, tmp_path):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    for fact in FACTS:
        assert horovod_wheel.wheel_folder(dict(FACTS,
                                               **{fact: FACTS[fact][:-1] + 'x'})) != horovod_wheel.wheel_folder(FACTS)


def test_the_source_is_edited_and_a_line_that_is_not_there_is_an_error(tmp_path):
    for name, edits in horovod_wheel.EDITS.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text('first\n' + ''.join(old for old, _ in edits) + 'last\n')
    horovod_wheel.edit(str(tmp_path), horovod_wheel.EDITS)
    text = (tmp_path / 'horovod' / 'tensorflow' / 'CMakeLists.txt').read_text()
    assert 'xla_mpi_ops' not in text and '/external/highwayhash\n' in text and '/farmhash_archive/src)\n' in text
    assert text.startswith('first\n') and text.endswith('last\n')
    with pytest.raises(SystemExit, match='0 lines .* instead of one'):
        horovod_wheel.edit(str(tmp_path), horovod_wheel.EDITS)
