"""A Slurm cluster of this test's own: slurmctld on the login machine, slurmd on every node of a ``hosts.Network``."""
import os
import secrets
import shutil
import subprocess
import time

from needed import Needed

NEEDED = Needed(('munged', 'slurmctld', 'slurmd', 'sbatch', 'srun', 'scontrol', 'scancel', 'squeue'),
                'slurm-wlm, munge')
# Requeued jobs start again when their credentials have expired (cred_expire).
_CONFIGURATION = '''
ClusterName=test
SlurmctldHost=login
SlurmUser=root
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
TmpFS=/dev/shm
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SchedulerParameters=sched_interval=2,sched_min_interval=100000,bf_interval=5
SlurmdParameters=config_overrides
SlurmdLogFile={folder}/slurmd-%n.log
SlurmctldLogFile={folder}/slurmctld.log
KillWait=60
NodeName={nodes} CPUs=2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=60
'''
SECONDS = 30  # until a daemon that does not come up counts as failed


class Cluster:
    """A context manager; the daemons have ended when it is left.

    Args:
        network (hosts.Network).
        folder (path): for configuration, state and logs; nothing of this machine's own is read or written.
    """

    def __init__(self, network, folder):
        self._network, self._folder, self._daemons = network, str(folder), []
        self.environment = {name: value for name, value in os.environ.items()
                            if not name.startswith(('SLURM', 'SBATCH', 'OMPI', 'PMI'))}
        self.environment['SLURM_CONF'] = self._path('slurm.conf')

    def _path(self, name):
        return os.path.join(self._folder, name)

    def __enter__(self):
        with open(self._path('slurm.conf'), 'w') as f:
            f.write(_CONFIGURATION.format(folder=self._folder, nodes=','.join(n.name for n in self._network.nodes)))
        with open(os.open(self._path('munge.key-file'), os.O_WRONLY | os.O_CREAT, 0o400), 'wb') as f:
            f.write(secrets.token_bytes(128))
        try:
            self._start(self._network.login, 'munged', '--foreground', '--force', *(
                '--{}={}'.format(name, self._path('munge.' + name))
                for name in ('socket', 'key-file', 'pid-file', 'seed-file')))
            _wait_until('munged answers', lambda: os.path.exists(self._path('munge.socket')))
            self._start(self._network.login, 'slurmctld', '-D')
            for node in self._network.nodes:
                self._start(node, 'slurmd', '-D', '-N', node.name)
            _wait_until('the nodes are idle', lambda: self._states() == {'idle'})
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self, machine, program, *arguments):
        with open(self._path('{}-{}.log'.format(program, machine.name)), 'w') as log:
            self._daemons.append(subprocess.Popen(
                machine.command([shutil.which(program), *arguments]), env=self.environment, stdout=log, stderr=log))

    def _states(self):
        ended = self.run('sinfo', '-h', '-N', '-o', '%T', check=False)
        return set(ended.stdout.split())

    def __exit__(self, *_):
        for daemon in reversed(self._daemons):
            daemon.terminate()
        for daemon in self._daemons:
            daemon.wait()

    def run(self, *words, cwd='/', check=True, **environment):
        """Run a command on the login machine. Returns: subprocess.CompletedProcess."""
        return subprocess.run(self._network.login.command(words, cwd), env=dict(self.environment, **environment),
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=check)

    def kill(self, node, pattern):
        """Kill the processes of a node whose command line has ``pattern`` in it, as if they had crashed."""
        machine = next(machine for machine in self._network.nodes if machine.name == node)
        machine.run('pkill', '--signal', 'KILL', '--full', pattern)


def _wait_until(what, condition, seconds=SECONDS):
    deadline = time.time() + seconds
    while not condition():
        assert time.time() < deadline, 'not within {} s: {}'.format(seconds, what)
        time.sleep(0.1)
