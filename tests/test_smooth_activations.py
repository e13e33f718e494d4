"""The activations against float64 formulas written out here, finite differences, and the numbers of the release."""
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from scipy.special import expit, ndtr
from scipy.stats import norm

import smooth_activations
from smooth_activations import activate, backward_slope, parse_name


def tanh_gelu(x):
    return np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x ** 3))


def tanh_gelu_derivative(x):
    inner = np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * x ** 2)
    return 0.5 * (1 + tanh_gelu(x)) + 0.5 * x * (1 - tanh_gelu(x) ** 2) * inner


def softplus(x, alpha=1.0):
    return np.logaddexp(0, alpha * x) / alpha


def tanh_softplus_slope(x):
    return 1 / np.cosh(np.minimum(softplus(x), 300)) ** 2 * expit(x)


def negative_part(x):
    return np.minimum(x, 0)


def smoothrelu(x, b):
    x = np.maximum(x, 0)
    return x - np.log1p(b ** 2 * x) / b ** 2


def smoothrelu_derivative(x, b):
    x = np.maximum(x, 0)
    return b ** 2 * x / (1 + b ** 2 * x)


def smoothrelu_db(x, b):
    """d y / d b: y = x - log(1 + b^2 x) / b^2 for x > 0."""
    x = np.maximum(x, 0)
    return 2 * np.log1p(b ** 2 * x) / b ** 3 - 2 * x / (b * (1 + b ** 2 * x))


# name: value and derivative in float64
TRUTH = {
    'relu': (lambda x: np.where(x > 0, x, 0), lambda x: np.where(x > 0, 1.0, 0.0)),
    'silu': (lambda x: x * expit(x), lambda x: expit(x) + x * expit(x) * expit(-x)),
    'softplus': (softplus, expit),
    'parametric_softplus': (lambda x: softplus(x, 10.0), lambda x: expit(10 * x)),
    'parametric_softplus:3': (lambda x: softplus(x, 3.0), lambda x: expit(3 * x)),
    'gelu': (lambda x: 0.5 * x * (1 + tanh_gelu(x)), tanh_gelu_derivative),
    'gelu_erf': (lambda x: x * ndtr(x), lambda x: ndtr(x) + x * norm.pdf(x)),
    'elu': (lambda x: np.where(x > 0, x, np.expm1(negative_part(x))), lambda x: np.exp(negative_part(x))),
    'celu': (lambda x: np.where(x > 0, x, np.expm1(negative_part(x))), lambda x: np.exp(negative_part(x))),
    'celu:0.5': (lambda x: np.where(x > 0, x, 0.5 * np.expm1(negative_part(x) / 0.5)),
                 lambda x: np.exp(negative_part(x) / 0.5)),
    'mish': (lambda x: x * np.tanh(softplus(x)), lambda x: np.tanh(softplus(x)) + x * tanh_softplus_slope(x)),
    'smoothrelu': (lambda x: smoothrelu(x, 20.0), lambda x: smoothrelu_derivative(x, 20.0)),
}

# Zero and its neighbours, ordinary values, where exponentials saturate (Mish's join at 20, float32's exp at 88), far.
POSITIVE = np.concatenate([[1e-30, 1e-6, 1e-3, 0.05], np.linspace(0.1, 8, 80),
                           [16.6, 19.9, 19.999, 20, 20.001, 20.1, 60, 87, 89, 104, 1e4]])
POINTS = np.concatenate([-POSITIVE[::-1], [0.0], POSITIVE]).astype(np.float32)
# A few units in the last place of float32; the absolute part is for 1 - tanh^2 in GELU's slope, which cancels around
# x = -5 and is multiplied by about x^2.
TOLERANCE = dict(rtol=2e-6, atol=5e-6)


@pytest.fixture(params=['compiled', 'TensorFlow'], autouse=True)
def ops(request):
    """What activations of float32 are made of."""
    if request.param == 'compiled':
        assert smooth_activations.can_compile()
        yield
    else:
        with smooth_activations.tensorflow_ops_only():
            assert not smooth_activations.can_compile()
            yield


def value_and_slope(sess, name, x, slope=None):
    """The op at ``x`` and its gradient there."""
    inputs = tf.placeholder(x.dtype, x.shape)
    with tf.variable_scope('site', reuse=tf.AUTO_REUSE), backward_slope(slope):
        y = activate(inputs, name)
    gradient, = tf.gradients(y, inputs)
    sess.run(tf.global_variables_initializer())
    return sess.run([y, gradient], {inputs: x})


def test_every_activation_has_a_truth_here():
    assert {parse_name(name)[0] for name in TRUTH} == set(smooth_activations.NAMES)


@pytest.mark.parametrize('name', TRUTH)
def test_the_truth_has_the_derivative_that_it_claims(name):
    function, derivative = TRUTH[name]
    h = 1e-6
    x = np.linspace(-8, 8, 160)  # does not hit the kink at 0
    np.testing.assert_allclose((function(x + h) - function(x - h)) / (2 * h), derivative(x), atol=1e-8)


@pytest.mark.parametrize('name', TRUTH)
def test_value_and_derivative_are_right_and_finite_everywhere(sess, name):
    value, slope = value_and_slope(sess, name, POINTS)
    assert np.isfinite(value).all() and np.isfinite(slope).all()
    function, derivative = TRUTH[name]
    x = POINTS.astype(np.float64)
    np.testing.assert_allclose(value, function(x), **TOLERANCE)
    np.testing.assert_allclose(slope, derivative(x), **TOLERANCE)


@pytest.mark.parametrize('name', [name for name in TRUTH if name != 'smoothrelu'])
def test_gradient_is_the_central_difference_of_the_op_in_float64(sess, name):
    x = np.linspace(-25, 25, 1000)
    h = 1e-5
    _, slope = value_and_slope(sess, name, x)
    above, below = (value_and_slope(sess, name, x + shift)[0] for shift in (h, -h))
    np.testing.assert_allclose(slope, (above - below) / (2 * h), atol=1e-8)


@pytest.mark.parametrize('name', TRUTH)
def test_the_incoming_gradient_multiplies_the_slope(sess, name):
    x = np.linspace(-3, 3, 24, dtype=np.float32).reshape(2, 3, 4)
    inputs, dy = tf.constant(x), np.random.RandomState(0).randn(2, 3, 4).astype(np.float32)
    gradient, = tf.gradients(activate(inputs, name), inputs, grad_ys=tf.constant(dy))
    sess.run(tf.global_variables_initializer())
    np.testing.assert_allclose(sess.run(gradient), dy * TRUTH[name][1](x.astype(np.float64)), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize('name', ['relu', 'silu', 'softplus', 'elu', 'gelu', 'mish'])
def test_activations_are_those_of_the_release(sess, load_json, name):
    fixture = load_json('activations.json')
    value, slope = value_and_slope(sess, name, np.array(fixture['x'], np.float32))
    # The release's slope of GELU is 1.8e-6 beside the formula's at -4.5, where its float32 cancels; TensorFlow 2.21's
    # is 0.5e-6 beside it on the other side.
    np.testing.assert_allclose(value, fixture['activations'][name]['y'], rtol=2e-6, atol=1e-6)
    np.testing.assert_allclose(slope, fixture['activations'][name]['dy_dx'], rtol=2e-6, atol=2.4e-6)


@pytest.mark.parametrize('b', [20, 4])
def test_smoothrelu_is_that_of_the_release(sess, load_json, b):
    fixture = load_json('activations.json')
    want = fixture['activations']['smoothrelu(beta_raw={})'.format(b)]
    x = tf.constant(fixture['x'], tf.float32)
    y = activate(x, 'smoothrelu')
    variable, = tf.global_variables()
    gradients = tf.gradients(tf.reduce_sum(y), [x, variable])
    variable.load([b], sess)
    value, (dx, db) = sess.run([y, gradients])
    np.testing.assert_allclose(value, want['y'], rtol=2e-6, atol=1e-6)
    np.testing.assert_allclose(dx, want['dy_dx'], rtol=2e-6, atol=1e-6)
    np.testing.assert_allclose(db, want['d_sum_y_d_beta_raw'], rtol=2e-5)


@pytest.mark.parametrize('slope', [None, 'silu'])
@pytest.mark.parametrize('b', [20.0, 4.0, 0.3, -4.0])
def test_gradient_of_smoothrelus_b_is_its_own_whatever_the_slope(sess, b, slope):
    x = np.linspace(-3, 6, 50)
    dy = np.random.RandomState(1).randn(50)
    inputs = tf.constant(x, tf.float32)
    with backward_slope(slope):
        y = activate(inputs, 'smoothrelu')
    variable, = tf.trainable_variables()
    gradients = tf.gradients(y, [inputs, variable], grad_ys=tf.constant(dy, tf.float32))
    variable.load([b], sess)
    dx, db = sess.run(gradients)
    h = 1e-5
    difference = np.sum(dy * (smoothrelu(x, b + h) - smoothrelu(x, b - h))) / (2 * h)
    np.testing.assert_allclose(np.sum(dy * smoothrelu_db(x, b)), difference, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(db, [difference], rtol=1e-4, atol=1e-5)
    derivative = TRUTH['silu'][1](x) if slope else smoothrelu_derivative(x, b)
    np.testing.assert_allclose(dx, dy * derivative, rtol=1e-5, atol=1e-6)


def test_smoothrelu_makes_one_trainable_variable_for_each_scope_and_reuses_it(sess):
    x = tf.constant([1.0])
    with tf.variable_scope('conv0'):
        activate(x, 'smoothrelu')
    with tf.variable_scope('conv0', reuse=True):
        activate(x, 'smoothrelu')
    with tf.variable_scope('conv1'):
        activate(x, 'smoothrelu')
    assert [(v.op.name, v.shape.as_list()) for v in tf.global_variables()] == [
        ('conv0/smoothrelu_beta', [1]), ('conv1/smoothrelu_beta', [1])]
    assert tf.trainable_variables() == tf.global_variables()
    sess.run(tf.global_variables_initializer())
    np.testing.assert_array_equal(sess.run(tf.global_variables()), [[20.0], [20.0]])


@pytest.mark.parametrize('text, parsed', [
    ('relu', ('relu', None)), ('SiLU', ('silu', None)), ('swish', ('silu', None)), ('gelu-erf', ('gelu_erf', None)),
    ('smoothrelu', ('smoothrelu', None)), ('celu', ('celu', 1.0)), ('celu:0.5', ('celu', 0.5)),
    ('parametric_softplus', ('parametric_softplus', 10.0)), ('Parametric-Softplus:3', ('parametric_softplus', 3.0))])
def test_names_aliases_and_alphas_are_understood(text, parsed):
    assert parse_name(text) == parsed


@pytest.mark.parametrize('text', ['swiish', '', 'silu2', 'tanh'])
def test_an_unknown_name_is_refused_with_the_choices(text):
    with pytest.raises(ValueError, match="'{}': choose from celu, elu, .*smoothrelu, softplus".format(text)):
        parse_name(text)


@pytest.mark.parametrize('text', ['relu:2', 'smoothrelu:3', 'swish:1'])
def test_an_alpha_that_is_not_wanted_is_refused(text):
    with pytest.raises(ValueError, match='{}.*has no alpha'.format(text)):
        parse_name(text)


@pytest.mark.parametrize('text', ['celu:', 'celu:x', 'celu:0', 'celu:-1', 'celu:nan', 'celu:inf', 'celu:1:2'])
def test_an_alpha_that_is_no_positive_number_is_refused(text):
    with pytest.raises(ValueError, match='{}.*positive number'.format(text)):
        parse_name(text)


def test_smoothrelu_is_no_stand_in_slope_for_others(graph):
    with backward_slope('smoothrelu'), pytest.raises(ValueError, match='choose from'):
        activate(tf.constant([1.0]), 'relu')


@pytest.mark.parametrize('slope', [name for name in TRUTH if name != 'smoothrelu'])
@pytest.mark.parametrize('name', ['relu', 'silu', 'celu:0.5', 'smoothrelu'])
def test_backward_slope_changes_the_gradient_and_leaves_the_value(sess, name, slope):
    value, gradient = value_and_slope(sess, name, POINTS, slope)
    plain, _ = value_and_slope(sess, name, POINTS)
    np.testing.assert_array_equal(value, plain)
    np.testing.assert_allclose(gradient, TRUTH[slope][1](POINTS.astype(np.float64)), **TOLERANCE)


def test_backward_slope_nests_and_ends_with_its_block(sess):
    x = tf.constant([-0.3, 0.1, 2.0])
    ys = {}
    ys['relu'] = activate(x, 'relu')
    with backward_slope('silu'):
        ys['silu'] = activate(x, 'relu')
        with backward_slope('softplus'):
            ys['softplus'] = activate(x, 'relu')
            with backward_slope(None):
                ys['relu inside'] = activate(x, 'relu')
        ys['silu again'] = activate(x, 'relu')
    ys['relu again'] = activate(x, 'relu')
    gradients = sess.run({key: tf.gradients(y, x)[0] for key, y in ys.items()})
    for key, gradient in gradients.items():
        np.testing.assert_allclose(gradient, TRUTH[key.split()[0]][1](np.array([-0.3, 0.1, 2.0])), rtol=1e-6,
                                   err_msg=key)


def test_backward_slope_ends_with_its_block_after_an_error_too(sess):
    with pytest.raises(KeyError), backward_slope('silu'):
        raise KeyError
    x = tf.constant([-1.0])
    assert sess.run(tf.gradients(activate(x, 'relu'), x)[0]) == 0


def test_the_slope_is_chosen_when_the_op_is_built_not_when_it_is_differentiated(sess):
    x = tf.constant([-1.0])
    with backward_slope('softplus'):
        y = activate(x, 'relu')
    with backward_slope('silu'):
        gradient, = tf.gradients(y, x)
    np.testing.assert_allclose(sess.run(gradient), expit([-1.0]), rtol=1e-6)


SMOOTH = [name for name in TRUTH if name != 'relu']  # plain relu is TensorFlow's own op


def downstream(nodes, start):
    """Names among ``nodes`` ({name: names of all its inputs}) that depend on one of ``start``."""
    reached = set(start)
    while True:
        more = {name for name, inputs in nodes.items() if reached.intersection(inputs)} - reached
        if not more:
            return reached
        reached |= more


def values_kept_for_the_gradient(graph_defs):
    """Nodes that depend on 'x' alone, not on the later 'dy', and whose values the backward pass consumes.

    Aliases of x count as 'x'.
    """
    data, control, alias = {}, {}, {}
    for node in (node for graph_def in graph_defs for node in graph_def.node):
        inputs = [name.lstrip('^').partition(':')[0] for name in node.input]
        control[node.name] = inputs
        data[node.name] = [name for name, full in zip(inputs, node.input) if not full.startswith('^')]
        if node.op == 'Identity':
            alias[node.name] = data[node.name][0]
    backward = downstream(control, ['dy'])
    assert len(backward) > 1
    kept = {name for consumer in backward for name in data.get(consumer, ())} - backward

    def origin(name):
        while name in alias:
            name = alias[name]
        return name
    return {origin(name) for name in kept} & downstream(data, ['x'])


@pytest.mark.parametrize('optimised', [False, True], ids=['as built', 'as run, after the graph optimiser'])
@pytest.mark.parametrize('name, slope', [(name, None) for name in SMOOTH] + [('relu', 'silu'), ('smoothrelu', 'mish')])
def test_of_the_forward_pass_the_gradient_keeps_only_the_input(sess, name, slope, optimised):
    # Results of an op, because the optimiser renames placeholders that are fed.
    fed = tf.placeholder(tf.float32, [2, 1000])
    x, dy = tf.cumsum(fed[0], name='x'), tf.cumsum(fed[1], name='dy')
    with backward_slope(slope):
        y = activate(x, name)
    gradient, = tf.gradients(y, x, grad_ys=dy)
    graph_defs = [sess.graph.as_graph_def()]
    if optimised:
        sess.run(tf.global_variables_initializer())
        metadata = tf.RunMetadata()
        sess.run([y, gradient], {fed: np.ones([2, 1000])}, tf.RunOptions(output_partition_graphs=True), metadata)
        graph_defs = metadata.partition_graphs
    assert values_kept_for_the_gradient(graph_defs) == {'x'}
