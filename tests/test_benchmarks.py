"""What the benchmarks share: in turn, ratios of a round, files whole; and what `make bench` says of them."""
import argparse
import json
import os
import subprocess
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BENCHMARKS = os.path.join(ROOT, 'benchmarks')
sys.path.insert(0, BENCHMARKS)

import measure  # noqa: E402  (behind the path)
from measure import Quantity  # noqa: E402

SPEED, SECONDS = Quantity('images/s', 1), Quantity('seconds', higher_is_better=False)


def test_variants_are_measured_in_turn():
    order = []

    def one(name):
        order.append(name)
        return {'images/s': len(order)}
    found = measure.interleaved(['a', 'b'], 3, one)
    assert order == ['a', 'b'] * 3
    assert found == {'a': {'images/s': [1, 3, 5]}, 'b': {'images/s': [2, 4, 6]}}


def test_a_ratio_is_the_median_of_the_rounds_not_of_the_medians():
    # A machine that slows down from round to round; the medians' ratio would be 3.
    found = {'a': {'images/s': [8.0, 4.0, 2.0]}, 'b': {'images/s': [12.0, 6.0, 30.0]}}
    a, b = measure.rows(found, [SPEED])
    assert a == {'name': 'a', 'median': 4.0, 'spread': [2.0, 8.0], 'ratio': 1.0}
    assert b == {'name': 'b', 'median': 12.0, 'spread': [6.0, 30.0], 'ratio': 1.5}


def test_a_ratio_above_1_is_better_also_where_less_is():
    found = {'a': {'seconds': [4.0, 2.0]}, 'b': {'seconds': [1.0, 0.5]}}
    assert [row['ratio'] for row in measure.rows(found, [SECONDS])] == [1.0, 4.0]


def test_each_variant_may_have_a_reference_of_its_own():
    found = {name: {'images/s': [value]} for name, value in (('a', 2.0), ('b', 6.0), ('b fast', 12.0))}
    made = measure.rows(found, [SPEED], lambda name: name.split()[0])
    assert [row['ratio'] for row in made] == [1.0, 1.0, 2.0]


def test_several_quantities_share_one_table_and_have_a_row_each():
    found = {'a': {'images/s': [2.0, 4.0], 'seconds': [1.0, 1.0]}, 'b': {'images/s': [1.0, 2.0], 'seconds': [3.0, 2.0]}}
    made = measure.rows(found, [SPEED, SECONDS])
    assert [row['name'] for row in made] == ['a: images/s', 'a: seconds', 'b: images/s', 'b: seconds']
    assert measure.table(found, [SPEED, SECONDS], made).splitlines() == [
        '| variant | images/s | times the first | seconds | the first over this |', '| --- | --- | --- | --- | --- |',
        '| a | 3.0 (2.0 to 4.0) | 1.00 | 1.00 (1.00 to 1.00) | 1.00 |',
        '| b | 1.5 (1.0 to 2.0) | 0.50 | 2.50 (2.00 to 3.00) | 0.42 |']


def test_the_file_says_how_where_and_when(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['benchmarks/some.py', '--flag', 'two words'])
    measure.report({'a': {'images/s': [1.0]}}, [SPEED], str(tmp_path / 'some.json'))
    assert os.listdir(tmp_path) == ['some.json']
    content = json.loads((tmp_path / 'some.json').read_text())
    assert sorted(content) == ['command', 'date', 'machine', 'rows']
    assert content['command'] == "benchmarks/some.py --flag 'two words'"
    assert content['machine'].startswith('{} cores of '.format(len(os.sched_getaffinity(0))))
    assert content['rows'] == [{'name': 'a', 'median': 1.0, 'spread': [1.0, 1.0], 'ratio': 1.0}]
    assert '| a | 1.0 (1.0 to 1.0) | 1.00 |' in capsys.readouterr().out


def test_a_measuring_process_hands_over_its_last_word_only():
    program = 'import measure; print("chatter"); measure.say({"x": 1}); measure.say({"x": 2}); print("more")'
    assert measure.run([sys.executable, '-c', program], env=dict(os.environ, PYTHONPATH=BENCHMARKS)) == {'x': 2}


@pytest.mark.parametrize('program', ['raise SystemExit(3)', 'pass'])
def test_a_measuring_process_that_fails_ends_the_benchmark(program):
    with pytest.raises(SystemExit, match='error: exit code'):
        measure.run([sys.executable, '-c', program])


@pytest.mark.parametrize('text, found', [
    ('clean: --attack-iter 0', ('clean', ['--attack-iter', '0'])), ('plain:', ('plain', [])),
    ("x: --a 'b c'", ('x', ['--a', 'b c']))])
def test_a_variant_is_a_name_and_flags(text, found):
    assert measure.variant(text) == found


@pytest.mark.parametrize('text', ['--attack-iter 0', ': --attack-iter 0', "x: 'open"])
def test_a_variant_without_a_name_or_with_an_open_quote_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match='{}'.format(text.split("'")[0])):
        measure.variant(text)


@pytest.mark.parametrize('flags, named', [
    (['--repeats', '0'], "'0'"), (['--repeats', 'many'], "'many'"), (['--json', '/nowhere/x.json'], '/nowhere/x.json')])
def test_flags_that_cannot_work_are_refused_before_anything_is_measured(flags, named, capsys):
    parser = argparse.ArgumentParser()
    measure.add_flags(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(flags)
    assert named in capsys.readouterr().err
