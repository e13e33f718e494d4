"""efficientnet/table.py: parameters and multiply-adds against EN Table 1 by hand, and against published figures."""
import os
import subprocess
import sys

import pytest

from efficientnet import table
from efficientnet.scaling import SIZES

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# EN Table 1: expansion, kernel, input's side, channels, layers of each stage, and strides that lead to the next side.
B0_STAGES = [(1, 3, 112, 16, 1), (6, 3, 112, 24, 2), (6, 5, 56, 40, 2), (6, 3, 28, 80, 3), (6, 5, 14, 112, 3),
             (6, 5, 14, 192, 4), (6, 3, 7, 320, 1)]


def by_hand():
    """Parameters and multiply-adds of EfficientNet-B0 from the rows of EN Table 1."""
    parameters = products = 0

    def layer(kernel, channels_in, channels, places, norm=True, bias=False):
        nonlocal parameters, products
        weights = kernel * kernel * channels_in * channels
        parameters += weights + (2 * channels if norm else 0) + (channels if bias else 0)
        products += weights * places

    layer(3, 3, 32, 112 ** 2)
    channels = 32
    sides = [side for _, _, side, _, _ in B0_STAGES[1:]] + [7]
    for (expand, kernel, side, wanted, layers), next_side in zip(B0_STAGES, sides):
        for number in range(layers):
            # The table's sides are those of a stage's input; the first layer makes the next one's, or has no stride.
            first_side, last_side = (side, next_side) if number == 0 else (next_side, next_side)
            inside, squeezed = channels * expand, channels // 4
            if expand > 1:
                layer(1, channels, inside, first_side ** 2)
            layer(kernel, 1, inside, last_side ** 2)
            layer(1, inside, squeezed, 1, norm=False, bias=True)
            layer(1, squeezed, inside, 1, norm=False, bias=True)
            layer(1, inside, wanted, last_side ** 2)
            channels = wanted
    layer(1, 320, 1280, 7 ** 2)
    layer(1, 1280, 1000, 1, norm=False, bias=True)
    return parameters, products


def test_b0_has_the_parameters_and_products_of_the_paper_s_table():
    assert table.count('efficientnet-b0') == by_hand()
    assert by_hand()[0] == 5288548


def test_there_are_published_figures_for_every_size():
    assert list(table.PUBLISHED) == list(SIZES)


@pytest.mark.parametrize('name', [name if name < 'efficientnet-b2' else pytest.param(name, marks=pytest.mark.slow)
                                  for name in SIZES])
def test_counts_are_close_to_the_published_ones(name):
    parameters, products = table.count(name)
    published = table.PUBLISHED[name]
    if published[0]:
        assert parameters / 1e6 == pytest.approx(published[0], rel=0.05)
    if published[1]:
        assert products / 1e9 == pytest.approx(published[1], rel=0.06)


def test_a_row_shows_counts_beside_published_figures(monkeypatch):
    monkeypatch.setattr(table, 'SIZES', {name: SIZES[name] for name in ('efficientnet-b0', 'efficientnet-bL1')})
    monkeypatch.setattr(table, 'count', lambda name: (5288548, 385900000))
    assert list(table.rows()) == [
        ['efficientnet-b0', '224', '1.0', '1.0', '5.29', '5.3', '0.39', '0.39'],
        ['efficientnet-bL1', '600', '3.9', '3.7', '5.29', '-', '0.39', '-']]


@pytest.mark.slow
def test_the_program_prints_one_table_of_all_sizes():
    done = subprocess.run([sys.executable, os.path.join(ROOT, 'efficientnet', 'table.py')], cwd='/', timeout=600,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    header, line, *rows = done.stdout.splitlines()
    assert done.returncode == 0 and done.stderr == ''
    assert [row.split(' | ')[0].lstrip('| ') for row in rows] == list(SIZES)
    assert {text.count('|') for text in [header, line] + rows} == {9}


@pytest.mark.parametrize('command', [[os.path.join(ROOT, 'efficientnet', 'table.py')], ['-m', 'efficientnet.table']])
def test_the_program_takes_no_flags(command):
    done = subprocess.run([sys.executable, *command, '--sizes'], cwd=ROOT, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2 and done.stdout == '' and done.stderr.count('\n') == 1 and '--sizes' in done.stderr
