"""Several machines on one: Linux namespaces with host name, network, shared memory and processes of their own.

    login ---- bridge ---- node1, node2, ...

The login machine has the switch that joins the nodes. It shares this machine's process numbers, so that ``mpirun`` can
run there and reach into the nodes. Files are shared by all, as on a cluster. Nothing of this machine's own network or
configuration is touched, and all of it goes away with the process that made it, however that ends.
"""
import contextlib
import os
import subprocess

from needed import Needed

NEEDED = Needed(
    ('ip', 'unshare', 'nsenter', 'setpriv', 'taskset'), 'iproute2, util-linux', 'network namespaces',
    ('--net', '--uts', '--ipc', '--mount', '--pid', '--fork', '--mount-proc', 'sh', '-c',
     'ip link add name b type bridge && ip link add p type veth peer name q && mount -t tmpfs tmpfs /dev/shm'))
# What the first process of a machine does: set up what is its own, and live until its input ends. As the first of its
# process numbers it also collects orphans, which bash does while it reads.
_INIT = '''
set -e
mount --bind "$1" /etc/hosts
mount -t tmpfs tmpfs /dev/shm
hostname "$0"
ip link set lo up
echo ready
while read -r _; do :; done
'''


class Machine:
    """One machine of ``network``.

    Args:
        name (str): its host name. hosts (str): file for /etc/hosts.
        cpus (list of int): where what ``command`` returns may run.
        processes (bool): process numbers of its own.
    """

    def __init__(self, name, hosts, cpus, processes):
        self.name = name
        namespaces = ['--net', '--uts', '--ipc', '--mount'] + (['--pid'] if processes else [])
        own = ['--fork', '--kill-child', '--mount-proc'] if processes else []
        self._holder = subprocess.Popen(['unshare'] + namespaces + own + ['bash', '-c', _INIT, name, hosts],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._holder.stdout.readline() == 'ready\n', name
        self.pid = self._holder.pid
        if processes:
            with open('/proc/{0}/task/{0}/children'.format(self.pid)) as children:
                self.pid = int(children.read())
        # With process numbers of its own a command is a child of nsenter; it is told when that ends.
        self.enter = ['taskset', '-c', ','.join(map(str, cpus)), 'nsenter', '-t', str(self.pid)] + namespaces + [
            'setpriv', '--pdeathsig', 'TERM']

    def command(self, words, cwd='/'):
        """The command line that runs ``words`` on this machine, in the folder ``cwd``."""
        return self.enter + ['bash', '-c', 'cd "$0" && exec "$@"', str(cwd)] + [str(word) for word in words]

    def run(self, *words, **options):
        """Run a command here to its end; fails if it does. Returns: its output."""
        return subprocess.run(self.command(words), check=True, stdout=subprocess.PIPE, text=True, **options).stdout

    def stop(self):
        """End the machine, and its processes if they have numbers of their own."""
        self._holder.stdin.close()
        self._holder.wait()
        self._holder.stdout.close()


class Network:
    """``login`` and the ``nodes``, as (Machine)s; a context manager.

    Args:
        folder (path): for a few small files.
        nodes (int): their number; each may use its part of the cores that this process may use.
    """

    def __init__(self, folder, nodes):
        self._stack = contextlib.ExitStack()
        names = ['login'] + ['node{}'.format(k + 1) for k in range(nodes)]
        hosts = os.path.join(folder, 'hosts')
        with open(hosts, 'w') as f:
            f.write('127.0.0.1 localhost\n' + ''.join('{} {}\n'.format(_address(k), n) for k, n in enumerate(names)))
        cpus = sorted(os.sched_getaffinity(0))
        share = max(1, len(cpus) // nodes)
        try:
            self.login = self._start(names[0], hosts, cpus, False)
            self.login.run('ip', 'link', 'add', 'bridge', 'type', 'bridge')
            self.login.run('ip', 'address', 'add', _address(0) + '/24', 'dev', 'bridge')
            self.login.run('ip', 'link', 'set', 'bridge', 'up')
            self.nodes = [self._start(name, hosts, [cpus[(k * share + i) % len(cpus)] for i in range(share)], True)
                          for k, name in enumerate(names[1:])]
            for k, node in enumerate(self.nodes):
                self.login.run('ip', 'link', 'add', node.name, 'type', 'veth', 'peer', 'name', 'eth0', 'netns',
                               node.pid)
                self.login.run('ip', 'link', 'set', node.name, 'master', 'bridge', 'up')
                node.run('ip', 'address', 'add', _address(k + 1) + '/24', 'dev', 'eth0')
                node.run('ip', 'link', 'set', 'eth0', 'up')
            self.agent = self._write_agent(folder)
        except BaseException:
            self._stack.close()
            raise

    def _start(self, *arguments):
        machine = Machine(*arguments)
        self._stack.callback(machine.stop)
        return machine

    def _write_agent(self, folder):
        """A program that runs a command on a node as ``ssh NODE COMMAND`` would; it works on the login machine."""
        path = os.path.join(folder, 'agent')
        cases = ['{}) enter="{}" ;;'.format(node.name, ' '.join(node.enter)) for node in self.nodes]
        with open(path, 'w') as f:
            f.write('#!/bin/bash\ncase $1 in\n{}\nesac\nshift\nexec $enter bash -c "$*"\n'.format('\n'.join(cases)))
        os.chmod(path, 0o755)
        return path

    def cut(self, node):
        """Take the node's cable out of the switch."""
        self.login.run('ip', 'link', 'set', node.name, 'down')

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stack.close()


def _address(k):
    return '10.77.0.{}'.format(k + 1)
