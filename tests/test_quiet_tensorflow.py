"""What TensorFlow says while it is imported, here a package that says the like."""
import os
import subprocess
import sys

import pytest

from small_runs import ROOT

PREFACE = 'WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n'
INFO = 'I0000 00:00:1795754783.019951     637 port.cc:153] oneDNN custom operations are on. You may see\n'
WARNING = 'W0000 00:00:1795754783.019951     637 port.cc:200] this machine is slow\n'
ERROR = 'E0000 00:00:1795754783.019951     637 port.cc:201] this machine is broken\n'
OTHERS = 'import of tensorflow: error: I0000 is no level\n'


@pytest.fixture
def start(tmp_path):
    """function(level, code after the import) -> what a Python says that imports the package."""
    (tmp_path / 'tensorflow').mkdir()
    (tmp_path / 'tensorflow' / '__init__.py').write_text('import os\nos.write(2, {!r})\n'.format(
        (PREFACE + INFO + WARNING + ERROR + OTHERS).encode()))

    def run(level, code=''):
        path = os.pathsep.join([str(tmp_path), ROOT])
        environment = {k: v for k, v in os.environ.items() if k != 'TF_CPP_MIN_LOG_LEVEL'}
        return subprocess.run(
            [sys.executable, '-S', '-c', 'from machine.quiet_tensorflow import quieten_tensorflow; '
             'quieten_tensorflow(); quieten_tensorflow(); import os, tensorflow; ' + code],
            stderr=subprocess.PIPE, text=True, env={**environment, **level, 'PYTHONPATH': path})
    return run


@pytest.mark.parametrize('level, said', [
    ({}, ERROR + OTHERS),
    ({'TF_CPP_MIN_LOG_LEVEL': '0'}, PREFACE + INFO + WARNING + ERROR + OTHERS),
    ({'TF_CPP_MIN_LOG_LEVEL': '1'}, WARNING + ERROR + OTHERS),
    ({'TF_CPP_MIN_LOG_LEVEL': '2'}, ERROR + OTHERS)])
def test_lines_below_the_level_are_held_back_and_no_others(start, level, said):
    ended = start(level)
    assert (ended.returncode, ended.stderr) == (0, said)


def test_what_is_said_after_the_import_is_not_looked_at(start):
    ended = start({'TF_CPP_MIN_LOG_LEVEL': '2'}, 'os.write(2, {!r})'.format(INFO.encode()))
    assert ended.stderr == ERROR + OTHERS + INFO


def test_an_import_that_fails_says_so(start, tmp_path):
    with open(tmp_path / 'tensorflow' / '__init__.py', 'a') as f:
        f.write('raise ImportError("no such library")\n')
    ended = start({'TF_CPP_MIN_LOG_LEVEL': '2'})
    assert ended.returncode == 1 and ended.stderr.startswith(ERROR + OTHERS)
    assert ended.stderr.endswith('ImportError: no such library\n')


def test_without_tensorflow_it_is_a_missing_module(start, tmp_path):
    os.rename(tmp_path / 'tensorflow', tmp_path / 'elsewhere')
    assert start({'TF_CPP_MIN_LOG_LEVEL': '2'}).stderr.endswith("No module named 'tensorflow'\n")
