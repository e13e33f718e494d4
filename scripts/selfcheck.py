"""Last step of `make setup`: Horovod has MPI, the compiled parts load, and two ranks can add numbers.

They add on CPUs, over MPI; where this machine has two GPUs, two ranks add on these too, over NCCL, which knows no two
ranks on one. A line that begins with "note: " says what a set-up for GPUs could not try here.
"""
import os
import subprocess
import sys

from machine.quiet_tensorflow import quieten_tensorflow

quieten_tensorflow()

import horovod.tensorflow as hvd
import tensorflow.compat.v1 as tf

from ranks.sessions import session_config
from ranks.start import start_ranks


def allreduce(device):
    ranks = start_ranks()
    with tf.Graph().as_default(), tf.device(device), tf.Session(config=session_config(ranks)) as sess:
        own = tf.constant(float(ranks.rank + 1))
        totals = sess.run([hvd.allreduce(own, op=hvd.Sum), hvd.allreduce(own * 10, op=hvd.Sum),
                           hvd.allreduce(own, op=hvd.Sum, postscale_factor=0.5)])
    assert ranks.size == 2 and totals == [3.0, 30.0, 1.5], (ranks.size, totals)


def start_two_ranks(device, **environment):
    command = ['mpirun', '--oversubscribe', '-np', '2', sys.executable, __file__, device]
    subprocess.run(command, check=True, env=dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT='1',
                                                 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM='1', **environment))


def main():
    assert hvd.mpi_built(), 'Horovod was built without MPI'
    import zmq_ops
    zmq_ops.load_op_library()
    from native import smooth_ops
    smooth_ops.load_op_library()
    from native import jpeg_part, resampling
    jpeg_part.load_library()
    resampling.load_library()
    start_two_ranks('/cpu:0', CUDA_VISIBLE_DEVICES='')
    gpus = len(tf.config.list_physical_devices('GPU'))
    if gpus > 1:
        start_two_ranks('/gpu:0')
    elif hvd.nccl_built():
        print('note: TensorFlow sees {} here. Set up for GPUs, tried {}'.format(
            'one GPU' if gpus else 'no GPU',
            'without an exchange over NCCL, which takes two.' if gpus else 'on CPUs only: not NCCL, nor any GPU.'))


if __name__ == '__main__':
    allreduce(sys.argv[1]) if sys.argv[1:] else main()
