"""slurm/launch.sh and the GPUs of a job's nodes, with made-up commands in place of Slurm's, MPI's and NVIDIA's."""
import os
import subprocess

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
NODE = '''NodeName={} Arch=x86_64 CoresPerSocket=32
   AvailableFeatures=gpu:9
   Gres={}
   NodeAddr=n NodeHostName=n Version=23.02
   CfgTRES=cpu=64,gres/gpu=7
'''
# Says in one line what it starts. A data server then runs until it is asked to end; with SERVED ranks wait for it first.
LAUNCHER = '''
words=${*//$'\\n'/ }
echo "started ${0##*/}: $words"
case $words in
  *serve-data.py*) sleep 60 & trap "kill $!" USR1; touch "$SERVED"; wait ;;
  *) until [ -z "$SERVED" ] || [ -e "$SERVED" ]; do sleep 0.1; done ;;
esac
'''


@pytest.fixture
def submit(tmp_path):
    """function(script, flags, node's generic resources, GPUs that NVIDIA's tool lists, variables) -> the ended process."""
    def run(script, *flags, resources='(null)', listed=0, **variables):
        nodes = ''.join(NODE.format('n{}'.format(number), text) for number, text in enumerate(resources.split()))
        for name, content in (('scontrol', '[ "$*" = "show node n[0-1]" ] && cat <<"END"\n{}END\n'.format(nodes)),
                              ('nvidia-smi', '[ "$*" = -L ] && cat <<"END"\n{}END\n'.format(
                                  ''.join('GPU {}: NVIDIA A100\n'.format(k) for k in range(listed)))),
                              ('mpirun', LAUNCHER), ('srun', LAUNCHER)):
            path = tmp_path / name
            path.write_text('#!/bin/bash\n' + content)
            path.chmod(0o755)
        environment = {name: value for name, value in os.environ.items() if not name.startswith('SLURM_')}
        for name in ('DATA', 'RANKS_PER_NODE', 'CUDA_VISIBLE_DEVICES', 'CONTAINER', 'CONTAINER_FLAGS'):
            environment.pop(name, None)
        environment.update(PATH='{}:{}'.format(tmp_path, environment['PATH']), SLURM_JOB_ID='7', SLURM_JOB_NUM_NODES='2',
                           SLURM_JOB_NODELIST='n[0-1]', SLURM_SUBMIT_DIR=ROOT, **variables)
        return subprocess.run(['bash', os.path.join(ROOT, 'slurm', script), *flags], env=environment, cwd=tmp_path,
                              capture_output=True, text=True)
    return run


@pytest.mark.parametrize('resources, count', [
    ('gpu:8 gpu:8', 8), ('gpu:a100:4(S:0-1),shard:16 gpu:a100:4', 4), ('gpu:3090:8 (null)', 8),
    ('craynetwork:4,gpu:10 gpu:2(S:0,2)', 2)])
def test_a_job_without_the_gpus_of_its_nodes_is_refused_with_the_line_to_type(submit, resources, count):
    job = submit('eval.sh', '--load', 'my weights.npz', resources=resources, DATA='/data')
    assert job.returncode == 2 and job.stdout == ''
    assert job.stderr == (
        r'eval.sh: the nodes have {0} GPUs each and the job has none of them; type: DATA=/data sbatch --nodes=2 '
        r'--gres=gpu:{0} slurm/eval.sh --load my\ weights.npz '
        '(with RANKS_PER_NODE=1 before it to compute on CPUs)\n'.format(count))


def test_training_is_refused_before_a_data_server_starts(submit):
    job = submit('train.sh', resources='gpu:8')
    assert job.returncode == 2 and job.stderr.startswith('train.sh: the nodes have 8 GPUs') and job.stdout == ''
    assert 'type: sbatch --nodes=2 --gres=gpu:8 slurm/train.sh (with' in job.stderr


def test_gpus_that_slurm_does_not_hand_out_are_named_too(submit):
    job = submit('eval.sh', '--load', 'x', listed=3)
    assert job.returncode == 2 and job.stderr.count('\n') == 1
    assert 'type: RANKS_PER_NODE=3 sbatch --nodes=2 slurm/eval.sh --load x (with' in job.stderr


@pytest.mark.parametrize('node, variables, ranks', [
    (dict(resources='gpu:8'), dict(SLURM_GPUS_ON_NODE='4'), 4), (dict(resources='gpu:8'), dict(SLURM_JOB_GPUS='2,5,7'), 3),
    (dict(resources='gpu:8'), dict(RANKS_PER_NODE='1'), 1), (dict(listed=8), dict(RANKS_PER_NODE='8'), 8),
    (dict(), dict(), 1), (dict(resources='gpu:0'), dict(), 1)])
def test_other_jobs_start_a_rank_for_each_of_their_gpus_or_as_many_as_asked_for(submit, node, variables, ranks):
    job = submit('eval.sh', '--load', 'x', **node, **variables)
    assert job.returncode == 0 and job.stderr == '', job.stderr
    assert 'started mpirun: -np {} -map-by ppr:{}:node:OVERSUBSCRIBE '.format(2 * ranks, ranks) in job.stdout


IN_IMAGE = 'apptainer exec {}my-image.sif python /opt/smooth-adversarial-training/'


@pytest.mark.parametrize('launcher', ['mpirun', 'srun'])
@pytest.mark.parametrize('variables, flags', [
    (dict(), ''), (dict(SLURM_GPUS_ON_NODE='2'), '--nv '),
    (dict(SLURM_GPUS_ON_NODE='2', CONTAINER_FLAGS='--rocm --bind /data'), '--rocm --bind /data ')])
def test_ranks_and_servers_run_the_programs_of_an_image(submit, tmp_path, launcher, variables, flags):
    job = submit('train.sh', '--epochs', '1', CONTAINER='my-image.sif', LAUNCHER=launcher, LOGS=str(tmp_path),
                 SERVED=str(tmp_path / 'served'), **variables)
    assert job.returncode == 0, job.stderr
    server, = [line for line in job.stdout.splitlines() if 'serve-data.py' in line]
    ranks, = [line for line in job.stdout.splitlines() if 'main.py' in line]
    assert ' serve-data ' + IN_IMAGE.format(flags) + 'third_party/serve-data.py --batch 32 ' in server
    assert ranks.startswith('started ' + launcher)
    assert ' ' + IN_IMAGE.format(flags) + 'main.py --logdir train_log/job-7 --resume-if-any --batch 32 ' in ranks
