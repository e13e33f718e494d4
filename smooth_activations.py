"""ReLU and its smooth relatives (SAT Sec 4, Figure 2), each as one op whose backward pass is chosen apart.

A layer says ``activate(x, 'silu')`` and knows nothing else. Forward and backward are two functions of the input
(SAT Sec 3: ReLU forward, slope of Parametric Softplus backward), so the gradient keeps only ``x`` alive and computes
the rest anew. On a CPU each is a compiled op (``native/smooth_ops``); elsewhere, and for what that has not, it is
TensorFlow's own ops, whose formulas are those here.
"""
import contextlib
import math
from typing import Callable, NamedTuple, Optional

import tensorflow.compat.v1 as tf

from native import smooth_ops

# Initial value of SmoothReLU's learnable ``b``, with beta = b^2 = 400 (SAT release).
SMOOTHRELU_INITIAL_B = 20.0
# exp(2 * 20) is far from float32's limit, and tanh(softplus(20)) is 1 in float32.
MISH_SATURATION = 20.0


class Activation(NamedTuple):
    """A function of (x, alpha) and its derivative with respect to x; ``alpha`` is None where there is none.

    compiled: its name among the functions of the op, ``native/smooth_ops/kernels.h``; None: that of the activation.
    """
    function: Callable
    derivative: Callable
    alpha: Optional[float] = None
    compiled: Optional[str] = None


def _relu_derivative(x, _):
    return tf.cast(x > 0, x.dtype)


def _silu(x, _):
    return x * tf.sigmoid(x)


def _silu_derivative(x, _):
    s = tf.sigmoid(x)
    return s * (1 + x * (1 - s))


# The tanh form is the one of the released checkpoints; the erf form is the definition.
GELU_SCALE = math.sqrt(2 / math.pi)
GELU_CUBIC = 0.044715


def _gelu_tanh_of(x):
    return tf.tanh(GELU_SCALE * x * (1 + GELU_CUBIC * tf.square(x)))


def _gelu(x, _):
    return 0.5 * x * (1 + _gelu_tanh_of(x))


def _gelu_derivative(x, _):
    t = _gelu_tanh_of(x)
    return 0.5 * (1 + t) + 0.5 * x * (1 - tf.square(t)) * GELU_SCALE * (1 + 3 * GELU_CUBIC * tf.square(x))


def _normal_cdf(x):
    return 0.5 * tf.math.erfc(-x * math.sqrt(0.5))


def _gelu_erf(x, _):
    return x * _normal_cdf(x)


def _gelu_erf_derivative(x, _):
    return _normal_cdf(x) + x * tf.exp(-0.5 * tf.square(x)) / math.sqrt(2 * math.pi)


def _celu(x, alpha):
    return tf.nn.relu(x) + alpha * tf.math.expm1(tf.minimum(x, 0) / alpha)


def _celu_derivative(x, alpha):
    return tf.exp(tf.minimum(x, 0) / alpha)


def _mish_terms(x):
    """e = exp(x) and n with tanh(softplus(x)) = n / (n + 2). Written without the ops softplus and tanh: on a CPU the
    graph optimiser takes batch norm followed by those for a fusion that it then does not have."""
    e = tf.exp(tf.minimum(x, MISH_SATURATION))
    return e, e * (e + 2)


def _mish(x, _):
    _, n = _mish_terms(x)
    return x * (n / (n + 2))


def _mish_derivative(x, _):
    e, n = _mish_terms(x)
    return n / (n + 2) + x * (4 * e / (n + 2)) * ((1 + e) / (n + 2))


ACTIVATIONS = {
    'relu': Activation(lambda x, _: tf.nn.relu(x), _relu_derivative),
    'silu': Activation(_silu, _silu_derivative),
    'softplus': Activation(lambda x, _: tf.nn.softplus(x), lambda x, _: tf.sigmoid(x)),
    # SAT Sec 3.2, f(x) = log(1 + exp(alpha x)) / alpha; alpha = 10 is quoted second-hand, hence also a parameter.
    'parametric_softplus': Activation(lambda x, alpha: tf.nn.softplus(alpha * x) / alpha,
                                      lambda x, alpha: tf.sigmoid(alpha * x), alpha=10.0, compiled='softplus'),
    'gelu': Activation(_gelu, _gelu_derivative),
    'gelu_erf': Activation(_gelu_erf, _gelu_erf_derivative),
    'elu': Activation(lambda x, _: tf.nn.elu(x), lambda x, _: tf.exp(tf.minimum(x, 0)), compiled='celu'),
    'celu': Activation(_celu, _celu_derivative, alpha=1.0),
    'mish': Activation(_mish, _mish_derivative),
}
# SmoothReLU has a variable of its own, so it is a network's activation and never a stand-in slope for another one.
NAMES = tuple(ACTIVATIONS) + ('smoothrelu',)
SLOPE_NAMES = tuple(ACTIVATIONS)
ALIASES = {'swish': 'silu'}


def parse_name(text, choices=NAMES):
    """Split ``NAME`` or ``NAME:ALPHA``, as in 'celu:0.5', in any case.

    Returns:
        (name, alpha): alpha is the default of the activation where none is given, None where it has none.
    Raises:
        ValueError: unknown name, or an alpha that is not positive or not wanted.
    """
    name, colon, number = text.lower().replace('-', '_').partition(':')
    name = ALIASES.get(name, name)
    if name not in choices:
        raise ValueError("'{}': choose from {}".format(text, ', '.join(sorted(choices))))
    alpha = ACTIVATIONS[name].alpha if name in ACTIVATIONS else None
    if not colon:
        return name, alpha
    if alpha is None:
        raise ValueError("'{}': {} has no alpha".format(text, name))
    try:
        alpha = float(number)
    except ValueError:
        alpha = float('nan')
    if not 0 < alpha < float('inf'):
        raise ValueError("'{}': alpha must be a positive number".format(text))
    return name, alpha


_slope_override = None


@contextlib.contextmanager
def backward_slope(name):
    """Activations built inside take their derivative from activation ``name``; None: each from its own (SAT Sec 3)."""
    global _slope_override
    before, _slope_override = _slope_override, name
    try:
        yield
    finally:
        _slope_override = before


def current_slope():
    """What the surrounding ``backward_slope`` was given; None outside of one."""
    return _slope_override


def _parsed_override():
    return parse_name(_slope_override, SLOPE_NAMES) if _slope_override else None


def activate(x, name):
    """Apply the activation ``name`` (``NAME`` or ``NAME:ALPHA``) elementwise.

    Args:
        x (tf.Tensor): floating point, any shape.
    Returns:
        tf.Tensor like ``x``. Its gradient is the activation's own, or that of the surrounding ``backward_slope``.
        'smoothrelu' makes or reuses the variable ``smoothrelu_beta`` of the current variable scope.
    Raises:
        ValueError: see ``parse_name``.
    """
    (key, alpha), slope = parse_name(name), _parsed_override()
    compiled = compiled_ops(x)
    with tf.name_scope(key):
        if key == 'smoothrelu':
            return _smoothrelu(x, slope and _derivative(compiled, *slope))
        if slope is None and key == 'relu':
            return tf.nn.relu(x)
        return _elementwise(_function(compiled, key, alpha), _derivative(compiled, *(slope or (key, alpha))))(x)


def activate_for_two(x, name):
    """``activate(x, name)`` twice, two tensors for two uses: on a CPU their gradients meet inside the activation's."""
    compiled, arguments = compiled_ops(x), compiled_arguments(name)
    if compiled is None or arguments is None:
        return 2 * (activate(x, name),)
    of_value, of_gradient = arguments

    @tf.custom_gradient
    def op(x):
        y = compiled.smooth_activation(x=x, **of_value)
        return (y, tf.identity(y)), lambda *dy: compiled.smooth_activation_grad(dy=dy, x=x, **of_gradient)
    with tf.name_scope(parse_name(name)[0]):
        return op(x)


def can_compile():
    """Whether ``activate`` uses the compiled ops of this machine, for types that they have."""
    if _own_ops_only or tf.config.list_physical_devices('GPU'):
        return False
    try:
        smooth_ops.load_op_library()
    except ImportError:
        return False
    return True


_own_ops_only = False


@contextlib.contextmanager
def tensorflow_ops_only():
    """Activations built inside are made of TensorFlow's own ops, which other programs load and XLA compiles."""
    global _own_ops_only
    before, _own_ops_only = _own_ops_only, True
    try:
        yield
    finally:
        _own_ops_only = before


def compiled_ops(x):
    """The module of ``smooth_ops`` if it has ops for ``x`` that may be used here, else None."""
    return smooth_ops.load_op_library() if x.dtype in (tf.float32, tf.bfloat16) and can_compile() else None


def _arguments(key, alpha):
    return dict(function=ACTIVATIONS[key].compiled or key, alpha=alpha or 1.0)


def compiled_arguments(name):
    """Two dicts, what compiled ops are told of an activation and of its gradient; None where they have not got it."""
    key, alpha = parse_name(name)
    return None if key == 'smoothrelu' else (_arguments(key, alpha), _arguments(*(_parsed_override() or (key, alpha))))


def _function(compiled, key, alpha):
    """x -> activation ``key`` of x."""
    if compiled is None:
        return lambda x: tf.cast(ACTIVATIONS[key].function(_wide(x), alpha), x.dtype)
    return lambda x: compiled.smooth_activation(x=x, **_arguments(key, alpha))


def _derivative(compiled, key, alpha):
    """(dy, x) -> dy * derivative of activation ``key`` at x."""
    if compiled is None:
        return lambda dy, x: tf.cast(_wide(dy) * ACTIVATIONS[key].derivative(_wide(x), alpha), x.dtype)
    return lambda dy, x: compiled.smooth_activation_grad(dy=[dy], x=x, **_arguments(key, alpha))


def _wide(x):
    """``x``, in float32 at least: the terms of the formulas leave float16's range, and XLA makes nothing of the
    casts."""
    return tf.cast(x, tf.float32) if x.dtype.size < 4 else x


def _elementwise(function, derivative):
    """The op y = function(x), dx = derivative(dy, x)."""
    @tf.custom_gradient
    def op(x):
        def gradient(dy):
            # Waiting for dy keeps the optimiser from merging these with the forward pass's equal ops, whose results
            # would then stay in memory until the backward pass.
            with tf.control_dependencies([dy]):
                return derivative(dy, x)
        return function(x), gradient
    return op


def _smoothrelu(x, derivative):
    """relu(x - log(1 + beta |x|) / beta), beta = b^2 > 0; ``b`` is what the released checkpoints store (SAT Sec 4).

    dy/dx = beta x / (1 + beta x) for x > 0, else 0, unless another ``derivative`` is asked for; dy/db is always its
    own.
    """
    b = tf.get_variable('smoothrelu_beta', [1], initializer=tf.constant_initializer(SMOOTHRELU_INITIAL_B))
    dtype, x = x.dtype, _wide(x)

    @tf.custom_gradient
    def op(x, b):
        beta = tf.square(b)

        def gradient(dy):
            with tf.control_dependencies([dy]):
                positive = tf.nn.relu(x)
                u = beta * positive
                dx = dy * u / (1 + u) if derivative is None else derivative(dy, x)
                dbeta = (tf.math.log1p(u) - u / (1 + u)) / tf.square(beta)
                return dx, tf.reshape(tf.reduce_sum(dy * dbeta), [1]) * 2 * b
        return tf.nn.relu(x - tf.math.log1p(beta * tf.abs(x)) / beta), gradient
    return tf.cast(op(x, tf.identity(b)), dtype)
