"""This project's TensorFlow ops: compiled by `make setup` into a folder of their own for each TensorFlow version.

So several environments share one checkout, and none loads what was compiled for another's headers.
"""
import os


def library_path(folder, version):
    """Where the Makefile in ``folder``, which is a package of ops, puts the library for a version of TensorFlow."""
    return os.path.join(folder, 'build', 'tensorflow-' + version, 'lib{}.so'.format(os.path.basename(folder)))


def load(folder):
    """Load the compiled ops of a package.

    Args:
        folder (str): path of the package, named as it is.
    Returns:
        module: has the wrappers of the ops.
    Raises:
        ImportError: the library has not been built, or was built for another TensorFlow.
    """
    import tensorflow as tf  # not at the top: a data server imports zmq_ops and must stay light
    name, library = os.path.basename(folder), library_path(folder, tf.__version__)
    if not os.path.isfile(library):
        raise ImportError('{}: {} has not been built; run `make setup`'.format(name, library))
    try:
        return tf.load_op_library(library)
    except tf.errors.NotFoundError as e:
        raise ImportError('{}: {} does not fit TensorFlow {}; delete it and run `make setup` ({})'.format(
            name, library, tf.__version__, e.message)) from e
