"""The benchmark of two checkouts in turns: its interval, what it starts, what it says of them."""
import os
import random
import statistics
import sys

import pytest

import versions

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TINY = ['--arch', 'CifarResNet', '-d', '8', '--batch', '2', '--attack-iter', '1']


@pytest.mark.parametrize('count, place', [(6, 1), (9, 2), (12, 3), (20, 6), (25, 8), (30, 10)])
def test_the_interval_of_a_median_is_that_of_the_tables(count, place):
    """``place``: of the published tables of the sign test, at 5% on two sides."""
    values = list(range(1, count + 1))
    random.Random(0).shuffle(values)
    assert versions.median_interval(values) == (place, count + 1 - place)


def test_the_interval_covers_the_median_in_95_percent_of_draws_of_a_skewed_distribution():
    numbers, median = random.Random(1), 2 ** 0.5  # the median of a Pareto distribution of shape 2
    covered = [low <= median <= high for low, high in (
        versions.median_interval([numbers.paretovariate(2) for _ in range(20)]) for _ in range(2000))]
    assert 0.94 < statistics.mean(covered) < 0.975  # 1 - 2 * 0.0207 = 0.959


def test_too_few_values_have_no_interval():
    with pytest.raises(ValueError, match='5 values'):
        versions.median_interval([1.0] * 5)


def a_checkout(folder, figures):
    """A checkout whose measuring programs say ``figures``, a Python expression of the turn's number."""
    (folder / '.venv' / 'bin').mkdir(parents=True)
    (folder / '.venv' / 'bin' / 'python').symlink_to(sys.executable)
    (folder / 'benchmarks').mkdir()
    for name in versions.PROGRAMS.values():
        (folder / 'benchmarks' / name).write_text(
            "import sys, json\nprint('measured: \"ready\"', flush=True)\n"
            "for turn, _ in enumerate(sys.stdin):\n"
            "    print('measured: ' + json.dumps({}), flush=True)\n".format(figures))
    return folder


@pytest.mark.parametrize('of, slow, fast', [
    ('attack', "{'image-steps/s': 2.0 * (turn + 1)}", "{'image-steps/s': (3.0 + (turn == 2)) * (turn + 1)}"),
    ('step', "{'images': 4 * (turn + 1), 'seconds': 2}",
     "{'images': (6 + 2 * (turn == 2)) * (turn + 1), 'seconds': 2}")])
def test_the_ratio_is_the_turns(tmp_path, monkeypatch, capsys, of, slow, fast):
    """A machine that gets faster from turn to turn, and a turn in which something else ran."""
    before, after = a_checkout(tmp_path / 'before', slow), a_checkout(tmp_path / 'after', fast)
    monkeypatch.setattr(versions, 'HERE', str(after / 'benchmarks'))
    versions.main([str(before), '--of', of, '--turns', '6'])
    out = capsys.readouterr().out
    assert 'after by before: 1.500, 95% 1.500 to 2.000, 6 turns' in out
    assert '| before | 7.00 (2.00 to 12.00) | 1.00 |' in out


@pytest.mark.parametrize('flags, words', [
    (['nowhere'], "'nowhere' has no .venv/bin/python: give a checkout in which `make setup` was run"),
    ([ROOT, '--turns', '5'], "'5': 6 turns or more"), ([ROOT, '--turns', 'x'], "'x' is no whole number above 0")])
def test_what_cannot_be_compared_is_said_in_a_line(capsys, flags, words):
    with pytest.raises(SystemExit) as refused:
        versions.main(flags)
    assert refused.value.code == 2 and words in capsys.readouterr().err


@pytest.mark.parametrize('of', [pytest.param('attack', marks=pytest.mark.slow), 'step'])
def test_a_checkout_beside_itself(capfd, of):
    versions.main([ROOT, '--of', of, '--turns', '6', '--steps', '1', *TINY])
    said = capfd.readouterr().out.splitlines()[-1]
    assert said.startswith('after by before: ') and 0.2 < float(said.split()[3].rstrip(',')) < 5
