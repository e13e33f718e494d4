"""Networks as models of Foolbox, ART and AutoAttack: the same logits and gradients, and from the same start the same
verdicts as this project's own attacks. With other starts and norms: test_against_others.py.
"""
import importlib

import foolbox
import numpy as np
import pytest

import sat
from library_networks import RESNET, pictures, write_network
from sat.adapters.tensors import tensors_of
from sat.adapters.with_autoattack import forward_pass
from sat.adapters.with_foolbox import foolbox_model, in_session

pytestmark = [pytest.mark.filterwarnings('ignore:PyTorch not found'),
              pytest.mark.filterwarnings('ignore:Please import `gaussian_filter`:DeprecationWarning')]
SIDE, COUNT, EPSILON, STEPS = 8, 60, 4, 5


@pytest.fixture(scope='module')
def net(tmp_path_factory):
    importlib.import_module('art')  # outside of a test, whose streams its first import would close
    load = write_network(tmp_path_factory.mktemp('nets') / 'R8.npz', *RESNET, '--input-size', str(SIDE),
                         '--num-classes', '3')
    with sat.load(load) as net:
        yield net


@pytest.fixture
def images():
    """Float32 in [0, 1]; their darkest and lightest values leave room for the attacks."""
    return (0.1 + 0.8 * pictures(COUNT, SIDE, SIDE) / 255).astype(np.float32)


def unit_predictions(net, images):
    return net.predict(images, bounds=(0, 1))


def test_all_give_the_network_s_logits(net, images):
    from sat.adapters.with_art import art_classifier
    said = unit_predictions(net, images)
    for found in (foolbox_model(net)(images), art_classifier(net).predict(images),
                  forward_pass(net)(images.transpose(0, 3, 1, 2)),
                  foolbox_model(net, bounds=(-1, 1))(2 * images - 1)):
        np.testing.assert_allclose(found, said, atol=1e-5)


def test_foolbox_s_attacks_have_our_verdicts(net, images):
    labels = unit_predictions(net, images).argmax(1)
    model = foolbox_model(net)
    assert foolbox.accuracy(model, images, labels) == 1
    attack = in_session(foolbox.attacks.LinfFastGradientAttack)(random_start=False)
    _, adv, success = attack(model, images, labels, epsilons=EPSILON / 255)
    ours = net.attack(images, labels, 'fgsm', epsilon=EPSILON, bounds=(0, 1), seed=0)
    np.testing.assert_array_equal(success, ours.success)
    assert 0.1 < success.mean() < 0.9
    assert np.mean(np.abs(adv - ours.images) < 0.01 * EPSILON / 255) > 0.99
    # One without gradients, as it is.
    noise = foolbox.attacks.LinfRepeatedAdditiveUniformNoiseAttack(repeats=2)
    _, _, success = noise(model, images, labels, epsilons=20 * EPSILON / 255)
    assert 0 < success.mean() < 1


def test_foolbox_s_other_attacks_are_refused():
    with pytest.raises(ValueError, match='L2DeepFoolAttack: only'):
        in_session(foolbox.attacks.L2DeepFoolAttack)


@pytest.mark.parametrize('ours, epsilon', [('fgsm', EPSILON), ('momentum', EPSILON)])
def test_art_s_attacks_have_our_verdicts(net, images, ours, epsilon):
    from art.attacks import evasion

    from sat.adapters.with_art import art_classifier
    labels, lengths = unit_predictions(net, images).argmax(1), {}
    if ours == 'fgsm':
        attack = evasion.FastGradientMethod(art_classifier(net), eps=epsilon / 255, batch_size=COUNT)
    else:
        lengths = dict(steps=STEPS, step_size=1)
        attack = evasion.MomentumIterativeMethod(art_classifier(net), decay=1.0, eps=epsilon / 255, eps_step=1 / 255,
                                                 max_iter=STEPS, batch_size=COUNT, verbose=False)
    theirs = unit_predictions(net, attack.generate(images, labels)).argmax(1) != labels
    found = net.attack(images, labels, ours, epsilon=epsilon, bounds=(0, 1), seed=0, **lengths)
    np.testing.assert_array_equal(theirs, found.success)
    assert 0.1 < theirs.mean() < 0.9


def test_art_s_gradients_of_each_class_are_the_network_s(net, images):
    from sat.adapters.with_art import art_classifier
    found = art_classifier(net).class_gradient(images[:4])
    for label in range(3):
        weights = np.tile(np.eye(3)[label], (4, 1))
        np.testing.assert_allclose(found[:, label], net.gradient(images[:4], weights, bounds=(0, 1)), atol=1e-4)


def test_tensors_are_those_that_autoattack_s_adapter_of_graphs_takes(net, images):
    import tensorflow.compat.v1 as tf
    tensors = tensors_of(net)
    labels = np.arange(COUNT) % 3
    with net.in_session.building():
        slope, = tf.gradients(tensors.cross_entropy(), tensors.image)
    logits, slopes = tensors.session.run([tensors.logits, slope], {tensors.image: images, tensors.label: labels})
    expected = net.logits_and_gradient(images, labels, bounds=(0, 1))
    np.testing.assert_allclose(logits, expected[0], atol=1e-5)
    np.testing.assert_allclose(slopes, expected[1], atol=1e-4)
    np.testing.assert_array_equal(tensors.predict(images), logits.argmax(1))


def test_pytorch_s_gradients_go_through_the_forward_pass(net, images):
    torch = pytest.importorskip('torch')
    labels = np.arange(COUNT) % 3
    x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).requires_grad_()
    logits = forward_pass(net)(x)
    torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels), reduction='sum').backward()
    expected = net.logits_and_gradient(images, labels, bounds=(0, 1))
    np.testing.assert_allclose(logits.detach().numpy(), expected[0], atol=1e-5)
    np.testing.assert_allclose(x.grad.numpy().transpose(0, 2, 3, 1), expected[1], atol=1e-4)
