"""The benchmark of start-up: what it measures does not grow with the evaluation attackers."""
import os
import subprocess
import sys

import pytest

from small_runs import ROOT, read_json


@pytest.mark.slow
def test_neither_graph_nor_phases_depend_on_the_number_of_evaluation_attackers(tmp_path):
    ended = subprocess.run(
        [sys.executable, os.path.join(ROOT, 'benchmarks', 'startup.py'), '--repeats', '1', '--json', 'runs.json',
         '--arch', 'CifarResNet', '-d', '8', '--input-size', '8', '--num-classes', '2', '--batch', '4'],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    found = {row['name']: row['median'] for row in read_json(tmp_path / 'runs.json')['rows']}
    runs = [{name.partition(': ')[2]: value for name, value in found.items() if name.startswith(number + ' evaluation')}
            for number in ('1', '3', '11')]
    assert len({run['operations'] for run in runs}) == 1
    for run in runs:
        phases = [run[name] for name in ('imports, s', 'graph, s', 'session, s', 'first step, s')]
        assert min(phases) > 0 and sum(phases) == pytest.approx(run['to its end, s'])
        assert sum(phases[:3]) == pytest.approx(run['to the first step, s'])
    assert [line.split(' evaluation')[0] for line in ended.stdout.splitlines()[2:]] == ['| 1', '| 3', '| 11']
    assert os.listdir(tmp_path) == ['runs.json']
