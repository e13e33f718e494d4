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
    runs = read_json(tmp_path / 'runs.json')['evaluation_attackers']
    assert list(runs) == ['1', '3', '11']
    assert len({run['operations'] for run, in runs.values()}) == 1
    for run, in runs.values():
        phases = [run[name] for name in ('imports', 'graph', 'session', 'first step')]
        assert min(phases) > 0 and sum(phases) == pytest.approx(run['after_first_step'])
        assert sum(phases[:3]) == pytest.approx(run['before_first_step'])
    assert [line.split(' | ')[0] for line in ended.stdout.splitlines()[2:]] == ['| 1', '| 3', '| 11']
    assert os.listdir(tmp_path) == ['runs.json']
