"""Builds what the Dockerfile says without a container engine: in a Debian that debootstrap makes, by chroot.

An image is a folder with a whole system. While a command runs in it, it has this machine's network and /dev as well, a
/proc of its own, and one more folder; all of it goes away with the command.
"""
import contextlib
import glob
import json
import os
import re
import shlex
import shutil
import subprocess
from typing import NamedTuple

from needed import Needed

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DOCKERFILE = os.path.join(ROOT, 'Dockerfile')
MIRROR = os.environ.get('DEBIAN_MIRROR', 'http://deb.debian.org/debian')
NEEDED = Needed(('debootstrap', 'unshare', 'chroot', 'git'), 'debootstrap, util-linux, git', 'chroot',
                ('--mount', '--pid', '--fork', 'mount', '-t', 'tmpfs', 'tmpfs', '/mnt'))
# What this machine needs for its network; nothing of it stays in an image.
_CERTIFICATES = '/tmp/certificates.crt'
_OF_THIS_MACHINE = ('http_proxy', 'https_proxy', 'no_proxy', 'PIP_INDEX_URL', 'PIP_DEFAULT_TIMEOUT')
_DEFAULT_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
# $1 the image, $2 a folder that it sees as $3, $4 'ro' where nothing else may be written; then user and command.
_ENTER = '''
set -e
image=$1 outside=$2 inside=$3 mode=$4 user=$5
shift 5
mount --make-rprivate /
mount --bind "$image" "$image"
mount -t proc proc "$image/proc"
mount --rbind /dev "$image/dev"
mount --rbind /sys "$image/sys"
mkdir -p "$image$inside"
mount --bind "$outside" "$image$inside"
[ "$mode" = rw ] || mount -o remount,bind,ro "$image"
[ "$mode" = rw ] || mount -t tmpfs -o mode=1777 tmpfs "$image/tmp"
exec chroot --userspec="$user" "$image" "$@"
'''


class Step(NamedTuple):
    """An instruction of a Dockerfile in one line; text: all behind its name."""
    name: str
    text: str


class Stage(NamedTuple):
    """What one FROM begins. base: an image's name, as it is written; name: what COPY --from calls it."""
    base: str
    name: str
    steps: list


def parse(text):
    """A Dockerfile's stages.

    Returns:
        defaults (dict): of the arguments before the first FROM. stages (list of Stage).
    """
    joined = re.sub(r'\\\n', ' ', re.sub(r'^\s*#.*\n', '', text, flags=re.MULTILINE))
    defaults, stages = {}, []
    for line in filter(None, map(str.strip, joined.splitlines())):
        name, _, rest = line.partition(' ')
        if name == 'FROM':
            base, *named = rest.split()
            stages.append(Stage(base, named[1] if named else '', []))
        elif not stages:
            assert name == 'ARG', line
            key, _, value = rest.partition('=')
            defaults[key] = value
        else:
            stages[-1].steps.append(Step(name, ' '.join(rest.split())))
    return defaults, stages


def sources(step):
    """The paths that a COPY takes from the folder that the image is built of; none if they are another stage's."""
    words = step.text.split()
    return [] if words[0].startswith('--from=') else words[:-1]


def make_debian(suite, folder):
    """What an image such as debian:13-slim holds."""
    subprocess.run(['debootstrap', '--variant=minbase', suite, folder, MIRROR], check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(os.path.join(folder, 'var', 'cache', 'apt', 'archives'))
    os.makedirs(os.path.join(folder, 'var', 'cache', 'apt', 'archives', 'partial'))


def copy_checkout(folder):
    """What a clean clone's folder gives an image: all files that git knows, and the name of the commit."""
    def git(*words):
        return subprocess.run(['git', *words], cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout

    packed = subprocess.run(['tar', '--create', '--null', '--files-from=-'], cwd=ROOT, check=True,
                            input=git('ls-files', '-z'), stdout=subprocess.PIPE).stdout
    subprocess.run(['tar', '--extract', '--directory', folder], check=True, input=packed)
    os.mkdir(os.path.join(folder, '.git'))
    with open(os.path.join(folder, '.git', 'HEAD'), 'wb') as f:
        f.write(git('rev-parse', 'HEAD'))


class Image:
    """A system in a folder, and what the steps of its Dockerfile have set.

    Args:
        folder (str): the system; is changed by what runs in it.
    """

    def __init__(self, folder):
        self.folder = folder
        self.environment = {'PATH': _DEFAULT_PATH}
        self.cwd, self.entrypoint = '/', []

    def run(self, words, *, outside, inside, user='0:0', read_only=False, **environment):
        """Run a command to its end in this system, in its own processes.

        Args:
            words (list of str). outside, inside (str): a folder of this machine and where the system sees it.
            user (str): 'number:number', which the system need not know. read_only (bool): the system cannot be written,
            but for /tmp, which is empty, and ``inside``. environment: more variables.
        Returns:
            subprocess.CompletedProcess.
        """
        shutil.copyfile('/etc/resolv.conf', os.path.join(self.folder, 'etc', 'resolv.conf'))
        home = '/root' if user.startswith('0:') else '/'  # as Docker has it for a user without a name
        shell = 'cd {} && exec "$@"'.format(shlex.quote(self.cwd))
        return subprocess.run(
            ['unshare', '--mount', '--pid', '--fork', '--kill-child', 'bash', '-c', _ENTER, 'enter', self.folder,
             outside,
             inside, 'ro' if read_only else 'rw', user, '/bin/sh', '-c', shell, 'run', *words],
            env=dict(self.environment, HOME=home, **environment), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True)

    def start(self, words, **options):
        """What `docker run` does with ``words``."""
        return self.run(self.entrypoint + words, **options)


def _expand(text, variables):
    return re.sub(r'\$\{?(\w+)\}?', lambda found: variables.get(found.group(1), ''), text)


class Builder:
    """Builds the image of the Dockerfile.

    Args:
        folder (str): an empty one. bases (dict): name of an image, as the argument BASE has it, to the folder of a
        system. kept (str): folder of this machine for the wheels of Horovod, which take minutes. arguments (dict):
        --build-arg.
    """

    def __init__(self, folder, bases, kept, **arguments):
        self._folder, self._bases, self._kept, self._arguments = folder, bases, kept, arguments
        self._context = os.path.join(folder, 'context')
        self._images = {}

    def build(self):
        """Returns: Image, of the last stage."""
        os.mkdir(self._context)
        copy_checkout(self._context)
        with open(DOCKERFILE) as f:
            defaults, stages = parse(f.read())
        for number, stage in enumerate(stages):
            image = Image(os.path.join(self._folder, stage.name or 'stage{}'.format(number)))
            base = _expand(stage.base, dict(defaults, **self._arguments))
            subprocess.run(['cp', '-a', self._bases[base], image.folder], check=True)
            self._images[stage.name] = image
            given = {}
            for step in stage.steps:
                getattr(self, '_' + step.name.lower())(image, step.text, given)
        return image

    def _arg(self, image, text, given):
        name, _, default = text.partition('=')
        given[name] = self._arguments.get(name, default)

    def _env(self, image, text, given):
        for word in text.split():
            name, _, value = word.partition('=')
            image.environment[name] = _expand(value, image.environment)

    def _workdir(self, image, text, given):
        image.cwd = text
        os.makedirs(image.folder + text, exist_ok=True)

    def _entrypoint(self, image, text, given):
        image.entrypoint = json.loads(text)

    def _copy(self, image, text, given):
        *paths, target = text.split()
        root = self._context
        if paths[0].startswith('--from='):
            root = self._images[paths.pop(0).split('=')[1]].folder
        target = image.folder + os.path.join(image.cwd, target)
        for path in paths:
            found = glob.glob(os.path.join(root, path.lstrip('/')))
            assert found, 'COPY {}: there is no {}'.format(text, path)
            for source in found:
                if os.path.isdir(source):  # Docker copies what is in it
                    os.makedirs(target, exist_ok=True)
                    subprocess.run(['cp', '-a', source + '/.', target], check=True)
                else:
                    os.makedirs(os.path.join(target, '') if len(paths) > 1 or target.endswith('/') else
                                os.path.dirname(target), exist_ok=True)
                    subprocess.run(['cp', '-a', source, target], check=True)

    def _run(self, image, text, given):
        more = {name: os.environ[name] for name in _OF_THIS_MACHINE if name in os.environ}
        certificates = os.environ.get('PIP_CERT')
        if certificates:
            shutil.copyfile(certificates, image.folder + _CERTIFICATES)
            more['PIP_CERT'] = _CERTIFICATES
        ended = image.run(['/bin/sh', '-c', text], outside=self._kept, inside='/root/.cache', **given, **more)
        with contextlib.suppress(FileNotFoundError):
            os.remove(image.folder + _CERTIFICATES)
        assert ended.returncode == 0, 'RUN {}\n{}'.format(text, ended.stdout)
        print(ended.stdout)
