"""Last step of `make setup`: Horovod has MPI, the compiled parts load, and two ranks can add two numbers."""
import os
import subprocess
import sys

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')

import horovod.tensorflow as hvd
import tensorflow.compat.v1 as tf


def allreduce():
    hvd.init()
    with tf.Graph().as_default(), tf.Session() as sess:
        total = sess.run(hvd.allreduce(tf.constant(float(hvd.rank() + 1)), op=hvd.Sum))
    assert hvd.size() == 2 and total == 3.0, (hvd.size(), total)


def main():
    assert hvd.mpi_built(), 'Horovod was built without MPI'
    import zmq_ops
    zmq_ops.load_op_library()
    import smooth_ops
    smooth_ops.load_op_library()
    import jpeg_part
    jpeg_part.load_library()
    env = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT='1', OMPI_ALLOW_RUN_AS_ROOT_CONFIRM='1')
    command = ['mpirun', '--oversubscribe', '-np', '2', sys.executable, __file__, 'allreduce']
    subprocess.run(command, env=env, check=True)


if __name__ == '__main__':
    allreduce() if sys.argv[1:] == ['allreduce'] else main()
