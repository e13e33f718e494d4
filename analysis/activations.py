"""Activations and their derivatives (SAT Figures 1 and 2), as networks here compute them."""
import numpy as np
import tensorflow.compat.v1 as tf

from ranks.sessions import cpu_session_config
from smooth_activations import activate

# The captions: ReLU beside Parametric Softplus, and five smooth functions.
FIGURES = {'figure1': ('relu', 'parametric_softplus'),
           'figure2': ('softplus', 'silu', 'gelu', 'elu', 'smoothrelu')}
REACH, POINTS = 5.0, 1001


def measure(names):
    """Values and derivatives at evenly spaced points.

    Args:
        names (iterable of str): as ``activate`` takes them; 'smoothrelu' has its initial shape.
    Returns:
        x (float32 [POINTS]), dict from name to (values, derivatives), each like x.
    Raises:
        ValueError: no such activation.
    """
    x = np.linspace(-REACH, REACH, POINTS, dtype=np.float32)
    with tf.Graph().as_default():
        tensor, found = tf.constant(x), {}
        for name in names:
            with tf.variable_scope(None, 'activation'):
                y = activate(tensor, name)
                found[name] = y, tf.gradients(y, tensor)[0]
        with tf.Session(config=cpu_session_config()) as session:
            session.run(tf.global_variables_initializer())
            return x, session.run(found)
