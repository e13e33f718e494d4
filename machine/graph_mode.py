"""TensorFlow's graph mode, which all graphs of this project are built in."""
import tensorflow.compat.v1 as tf


def use_graphs() -> None:
    """Choose graph mode for this process, before it makes any graph."""
    verbosity = tf.logging.get_verbosity()
    # Its warning that reference variables have no future says nothing to those who run these programs.
    tf.logging.set_verbosity(tf.logging.ERROR)
    tf.disable_v2_behavior()
    tf.logging.set_verbosity(verbosity)
    # With reference variables and tensorpack's ungated gradients a weight's update can overtake the gradient that still
    # has to flow through that weight.
    tf.enable_resource_variables()
    # float32 is float32 on GPUs since Ampere too, where TensorFlow's default is TF32; training may ask for it.
    tf.config.experimental.enable_tensor_float_32_execution(False)
