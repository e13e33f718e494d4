"""A network as a classifier of the Adversarial Robustness Toolbox (ART)."""
import tensorflow.compat.v1 as tf
from art.estimators.classification import TensorFlowClassifier

from sat.adapters.tensors import tensors_of


def art_classifier(net, bounds=(0, 1)):
    """A network (sat.network.Network) for ART: RGB images float32 [N,S,S,3] in ``bounds``, NumPy's."""
    tensors = tensors_of(net, bounds)
    with net.in_session.building():
        return classifier_of(tensors)


def classifier_of(tensors):
    """ART's classifier of ``Tensors``; to be made where their graph is the current one."""
    one_hot = tf.placeholder(tf.float32, [None, int(tensors.logits.shape[1])])
    loss = tf.reduce_sum(tf.nn.softmax_cross_entropy_with_logits_v2(labels=one_hot, logits=tensors.logits))
    return _Classifier(tensors.image, tensors.logits, labels_ph=one_hot, loss=loss, sess=tensors.session,
                       clip_values=tensors.bounds, channels_first=tensors.channels_first)


class _Classifier(TensorFlowClassifier):
    """ART's, which adds to the current graph when it is first asked for some things."""

    def class_gradient(self, *args, **kwargs):
        with self.output.graph.as_default():
            return super().class_gradient(*args, **kwargs)

    def get_activations(self, *args, **kwargs):
        with self.output.graph.as_default():
            return super().get_activations(*args, **kwargs)
