"""Which source a program is, against git itself."""
import os
import subprocess

import pytest

from machine.versions import source_version


def git(folder, *words):
    return subprocess.run(
        ['git', '-c', 'user.name=a', '-c', 'user.email=a@b', *words], cwd=folder, check=True, capture_output=True,
        text=True, env={n: v for n, v in os.environ.items() if not n.startswith('GIT_')}).stdout.strip()


@pytest.fixture(autouse=True)
def forget():
    source_version.cache_clear()
    yield
    source_version.cache_clear()


@pytest.fixture
def checkout(tmp_path):
    """A repository of one file with two commits."""
    folder = tmp_path / 'checkout'
    folder.mkdir()
    git(folder, 'init', '-b', 'main')
    for content in ('first', 'second'):
        (folder / 'main.py').write_text(content)
        git(folder, 'add', 'main.py')
        git(folder, 'commit', '-m', content)
    return folder


def another_checkout(folder):
    git(folder, 'branch', 'side/line', 'HEAD~1')
    git(folder, 'worktree', 'add', '../other', 'side/line')
    return folder.parent / 'other'


@pytest.mark.parametrize('arrange', [
    lambda folder: folder,
    lambda folder: git(folder, 'checkout', '--detach', 'HEAD~1') and folder or folder,
    lambda folder: git(folder, 'pack-refs', '--all') or folder,
    another_checkout,
    lambda folder: git(another_checkout(folder), 'pack-refs', '--all') or folder.parent / 'other',
], ids=['branch', 'detached', 'packed', 'worktree', 'packed worktree'])
def test_the_commit_is_the_one_that_git_names(checkout, arrange):
    folder = arrange(checkout)
    assert source_version(str(folder)) == {'commit': git(folder, 'rev-parse', 'HEAD'), 'changed': False}


@pytest.mark.parametrize('stage', [False, True])
def test_a_changed_tree_is_told_whether_or_not_the_change_is_staged(checkout, stage):
    (checkout / 'main.py').write_text('third!')
    if stage:
        git(checkout, 'add', 'main.py')
    assert source_version(str(checkout)) == {'commit': git(checkout, 'rev-parse', 'HEAD'), 'changed': True}


def test_a_file_that_was_only_touched_or_that_git_does_not_know_is_no_change(checkout):
    os.utime(checkout / 'main.py', (1, 1))
    (checkout / 'notes').write_text('mine')
    assert source_version(str(checkout))['changed'] is False


def test_another_repository_in_the_environment_is_not_asked(checkout, monkeypatch, tmp_path):
    monkeypatch.setenv('GIT_DIR', str(tmp_path))
    monkeypatch.setenv('GIT_INDEX_FILE', str(tmp_path / 'none'))
    assert source_version(str(checkout))['changed'] is False


def test_an_installed_copy_has_no_commit_not_even_within_another_s_repository(checkout):
    (checkout / 'copy').mkdir()
    assert source_version(str(checkout / 'copy')) == {'commit': None, 'changed': None}
    git(checkout / 'copy', 'init')
    source_version.cache_clear()
    assert source_version(str(checkout / 'copy')) == {'commit': None, 'changed': None}, 'nothing is committed there'


def test_without_git_the_commit_is_known_and_what_changed_is_not(checkout, monkeypatch, tmp_path):
    commit = git(checkout, 'rev-parse', 'HEAD')
    monkeypatch.setenv('PATH', str(tmp_path))
    assert source_version(str(checkout)) == {'commit': commit, 'changed': None}


def test_nothing_is_forked_as_mpi_wants_it(checkout, monkeypatch):
    def refuse(*_):
        raise AssertionError('forked')
    for module, name in ((os, 'fork'), (subprocess, '_fork_exec' if hasattr(subprocess, '_fork_exec') else 'Popen')):
        monkeypatch.setattr(module, name, refuse)
    assert source_version(str(checkout))['changed'] is False


def test_the_source_is_that_of_the_start_however_long_the_program_runs(checkout):
    before = source_version(str(checkout))
    (checkout / 'main.py').write_text('third!')
    assert source_version(str(checkout)) == before
