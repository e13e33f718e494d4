"""What a test needs of the machine that it runs on, and why it cannot run on this one."""
import os
import shutil
import subprocess
from typing import NamedTuple, Tuple


class Needed(NamedTuple):
    """programs: in the PATH; packages: Debian's, which have them. root_for: what only root may do. unshare: words of
    that program, which try it."""
    programs: Tuple[str, ...]
    packages: str
    root_for: str = ''
    unshare: Tuple[str, ...] = ()

    def missing(self):
        """Why this cannot be had here; '' if it can."""
        if self.root_for and os.geteuid() != 0:
            return 'this needs root, for ' + self.root_for
        absent = [name for name in self.programs if not shutil.which(name)]
        if absent:
            return 'not installed: {} (Debian: {})'.format(', '.join(absent), self.packages)
        if not self.unshare:
            return ''
        tried = subprocess.run(('unshare', *self.unshare), stderr=subprocess.PIPE, text=True)
        return tried.stderr and 'no namespaces here: ' + tried.stderr.strip().splitlines()[-1]
