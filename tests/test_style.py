"""What is asked of the code as text, and the names by which an environment knows its modules."""
import ast
import glob
import os
import subprocess
import sys

import pytest
from setuptools.config.pyprojecttoml import load_file

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LONGEST_MODULE, LONGEST_FUNCTION = 300, 60  # lines


def test_ruff_finds_nothing():
    """By the rules of pyproject.toml: names that are missing or not used, the order of imports, the length of lines."""
    checked = subprocess.run([sys.executable, '-m', 'ruff', 'check', '--no-cache', '--output-format', 'concise', ROOT],
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert checked.returncode == 0, checked.stdout


def modules():
    """Path in the checkout and text of every module but the tests' and those of environments."""
    for pattern in '*.py', '[!.]*/**/*.py':
        for path in glob.glob(os.path.join(ROOT, pattern), recursive=True):
            with open(path) as f:
                path = os.path.relpath(path, ROOT)
                if not path.startswith('tests/') and not path.split('/')[0].endswith('-env'):
                    yield path, f.read()


def test_no_module_edits_the_search_path():
    assert [path for path, text in modules() if 'sys.path' in text] == []


def test_no_module_and_no_function_is_long():
    long = []
    for path, text in modules():
        long += [path] * (text.count('\n') > LONGEST_MODULE)
        long += ['{}:{}'.format(path, node.name) for node in ast.walk(ast.parse(text))
                 if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
                 and node.end_lineno - node.lineno >= LONGEST_FUNCTION]
    assert long == []


def test_the_installation_knows_every_module_and_package():
    installed = load_file(os.path.join(ROOT, 'pyproject.toml'))['tool']['setuptools']
    modules = {os.path.basename(path)[:-len('.py')] for path in glob.glob(os.path.join(ROOT, '*.py'))}
    packages = {os.path.basename(os.path.dirname(path)) for path in glob.glob(os.path.join(ROOT, '*', '__init__.py'))}
    assert set(installed['py-modules']) == {name for name in modules if name.isidentifier()}
    assert set(installed['packages']) == packages | {'zmq_ops'}


@pytest.mark.parametrize('program', [
    'import zmq_ops.wire; zmq_ops.dump_arrays([])', 'import data.stream, third_party.imagenet_utils, settings.resolve',
    'import ranks.start, machine.gpus, files.typed'])
def test_the_names_are_known_in_any_folder(program, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    subprocess.run([sys.executable, '-c', program], cwd=tmp_path, env=environment, check=True)
