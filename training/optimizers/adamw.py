"""AdamW, without its decay, which is ``DecoupledDecay``'s."""
import tensorflow.compat.v1 as tf

# "Revisiting Adversarial Training for ImageNet" (RAT), release.
BETA_1, BETA_2 = 0.9, 0.95
EPSILON = 1e-8


class Adam(tf.train.AdamOptimizer):
    """Adam as its paper has it (Kingma and Ba 2015, Algorithm 1), and PyTorch: epsilon is added to the corrected root.

    TensorFlow's is added before the correction, which is less by up to the root of 1 - beta_2 in the first steps.
    """

    def __init__(self, learning_rate):
        super().__init__(learning_rate, BETA_1, BETA_2, EPSILON, name='AdamW')

    def _resource_apply_dense(self, grad, var):
        power_1, power_2 = self._get_beta_accumulators()
        return tf.raw_ops.ResourceApplyAdam(
            var=var.handle, m=self.get_slot(var, 'm').handle, v=self.get_slot(var, 'v').handle, beta1_power=power_1,
            beta2_power=power_2, lr=self._lr_t, beta1=self._beta1_t, beta2=self._beta2_t,
            epsilon=self._epsilon_t * tf.sqrt(1 - power_2), grad=grad, use_locking=self._use_locking)


def adamw(learning_rate, settings):
    """The RAT release's."""
    return Adam(learning_rate)
