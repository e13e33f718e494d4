"""Which source and which libraries a figure comes from."""
import contextlib
import functools
import os
import platform
from typing import Any, Dict, Optional

import numpy as np


def library_versions() -> Dict[str, str]:
    """Versions of what decides a result, JSON-ready."""
    import cv2
    import horovod
    import tensorflow
    import tensorpack
    return {'python': platform.python_version(), 'tensorflow': tensorflow.__version__,
            'tensorpack': tensorpack.__version__, 'horovod': horovod.__version__, 'numpy': np.__version__,
            'opencv': cv2.__version__}


_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


@functools.lru_cache(None)  # of the files that this process has read, not of those of an hour later
def source_version(root: str = _ROOT) -> Dict[str, Any]:
    """Which source this program is, JSON-ready.

    Returns:
        dict: ``commit`` (str): hexadecimal name of the checkout's commit; None in an installed copy.
        ``changed`` (bool): whether files that git knows differ from that commit; None where git cannot tell.
    """
    try:
        commit = _commit_of(root)
    except OSError:  # no checkout, or one that another user may not read
        commit = None
    return {'commit': commit, 'changed': None if commit is None else _differs_from_commit(root)}


def _commit_of(root: str) -> Optional[str]:
    """The commit that is checked out in ``root``, read without git, which containers often lack; None before the first.

    Raises:
        OSError: no checkout of git's.
    """
    folder = os.path.join(root, '.git')
    if os.path.isfile(folder):  # one of several checkouts of a repository
        folder = os.path.join(root, _first_line(folder).split('gitdir: ')[-1])
    head = _first_line(os.path.join(folder, 'HEAD'))
    if not head.startswith('ref: '):
        return head
    branch = head[len('ref: '):]
    common = os.path.join(folder, 'commondir')
    shared = os.path.join(folder, _first_line(common)) if os.path.exists(common) else folder
    with contextlib.suppress(FileNotFoundError):
        return _first_line(os.path.join(shared, branch))
    with contextlib.suppress(FileNotFoundError), open(os.path.join(shared, 'packed-refs')) as f:
        for line in f:
            if line.split()[1:] == [branch]:
                return line.split()[0]
    return None


def _first_line(path: str) -> str:
    with open(path) as f:
        return f.readline().strip()


def _differs_from_commit(root: str) -> Optional[bool]:
    """Whether git's own files in ``root`` differ from the commit; None where git is missing or cannot tell."""
    command = ['git', '-C', root, '--git-dir=.git', '--work-tree=.', 'diff', '--quiet', '--no-ext-diff', 'HEAD']
    environment = {name: value for name, value in os.environ.items() if not name.startswith('GIT_')}
    nowhere = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in range(3)]
    try:
        # Not by ``subprocess``, which may fork: that is not safe in a process of MPI's, and this is.
        process = os.posix_spawnp('git', command, dict(environment, GIT_OPTIONAL_LOCKS='0'), file_actions=nowhere)
    except OSError:
        return None
    return {0: False, 1: True}.get(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
