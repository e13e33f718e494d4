"""The library's documents run: the README's lines, the examples, the notebook, whose page has its cells."""
import glob
import importlib
import importlib.util
import json
import os
import re
import runpy
import sys

import cv2
import pytest
import tensorflow.compat.v1 as tf

import main

pytestmark = [pytest.mark.filterwarnings('ignore:PyTorch not found'),
              pytest.mark.filterwarnings('ignore:Please import `gaussian_filter`:DeprecationWarning')]
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
EXAMPLES = sorted(os.path.basename(path) for path in glob.glob(os.path.join(ROOT, 'examples', '*.py')))
RUN = os.path.join('train_log', 'demo', 'silu')
README_LINES, EXAMPLE_LINES = 10, 30


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A folder in which a network is where `make demo` leaves it, trained on digits for a moment."""
    importlib.import_module('art')  # its first import closes what loggers write to, and that is the test's within one
    folder = tmp_path_factory.mktemp('demo')
    with pytest.MonkeyPatch.context() as patch, tf.Graph().as_default():
        patch.chdir(folder)
        main.main(['--arch', 'CifarResNet', '-d', '8', '--activation-name', 'silu', '--input-size', '16', '--batch',
                   '32', '--attack-iter', '0', '--epochs', '1', '--base-lr', '0.4', '--warmup-epochs', '0',
                   '--eval-attack-iter', '1', '--logdir', RUN])
    return folder


@pytest.fixture(autouse=True)
def there(folder, monkeypatch):
    monkeypatch.chdir(folder)


def shares(printed):
    """The percentages in some output."""
    return [float(share) for share in re.findall(r'([\d.]+)%', printed)]


def test_the_readme_s_lines_attack_digits_and_show_a_picture(folder, capsys):
    with open(os.path.join(ROOT, 'README.md')) as f:
        lines, = re.findall(r'^```python\n(.*?)^```$', f.read(), re.DOTALL | re.MULTILINE)
    assert len(lines.splitlines()) <= README_LINES
    exec(compile(lines, 'README.md', 'exec'), {'__name__': '__main__'})
    clean, attacked = map(float, re.findall(r'\d\.\d+', capsys.readouterr().out)[-2:])
    assert clean >= 0.75 and attacked <= 0.5
    picture = cv2.imread('digits.png')
    assert picture.shape[1] > 8 * 96 and picture.std() > 20


@pytest.mark.parametrize('name', EXAMPLES)
def test_an_example_runs_and_is_short(name, folder, monkeypatch, capsys):
    path = os.path.join(ROOT, 'examples', name)
    with open(path) as f:
        text = f.read()
    assert text.count('\n') <= EXAMPLE_LINES
    if 'import torch' in text:
        for needed in 'torch', 'autoattack':
            pytest.importorskip(needed)
    files = []
    if name == 'predict.py':
        from data.digits import digits_folder
        files = sorted(glob.glob(os.path.join(digits_folder(), 'val', '[37]', '*.png')))[::20]
    monkeypatch.setattr(sys, 'argv', [path, RUN, *files])
    runpy.run_path(path, run_name='__main__')
    CHECKS[name](capsys.readouterr().out, files)


def check_predictions(printed, files):
    found = [line.split('\t') for line in printed.splitlines()]
    assert [row[0] for row in found] == files
    right = [row[1].split()[0] == os.path.basename(os.path.dirname(row[0])) for row in found]
    assert sum(right) > len(files) / 2


def check_attack(printed, _):
    clean, attacked = map(int, re.findall(r'(\d) of 8', printed.replace('right: ', '')))
    assert clean >= 6 > attacked and cv2.imread('attacked.png') is not None


def check_falling(printed, _):
    found = shares(printed)
    assert len(found) >= 2 and found[0] > 20 and min(found[1:]) < found[0]


CHECKS = {'predict.py': check_predictions, 'attack.py': check_attack, 'evaluate.py': check_falling,
          'with_foolbox.py': check_falling, 'with_art.py': check_falling, 'with_autoattack.py': lambda *_: None}


def test_the_notebook_runs_and_its_page_has_its_cells(folder):
    spec = importlib.util.spec_from_file_location('notebook', os.path.join(ROOT, 'tools', 'notebook.py'))
    notebook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(notebook)
    cells = notebook.run(os.path.join(ROOT, 'docs', 'library.ipynb'))
    assert any('the same verdicts: True' in cell.printed for cell in cells)
    with open(os.path.join(ROOT, 'docs', 'library.md')) as f:
        page = f.read()
    assert without_output(page) == without_output(notebook.as_markdown(cells, 'library'))
    assert sum(cell.png is not None for cell in cells) == page.count('![') >= 2
    with open(os.path.join(ROOT, 'docs', 'library.ipynb')) as f:
        assert not any(cell.get('outputs') for cell in json.load(f)['cells'])  # they are the page's


def without_output(page):
    return re.sub(r'^```text\n.*?^```\n\n', '', page, flags=re.DOTALL | re.MULTILINE)
