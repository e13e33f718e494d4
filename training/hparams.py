"""A run's flags for TensorBoard's HPARAMS page, on which runs can be compared by them and by their figures.

Written by the numbers of the fields of TensorBoard's own messages (tensorboard/plugins/hparams/plugin_data.proto), so
that a run does not need TensorBoard to be there. Which figures there are, TensorBoard finds out from the run's scalars.
"""
import os
import time

import tensorflow.compat.v1 as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, struct_pb2, text_format
from tensorpack.callbacks import Callback

from settings import sections
from settings.recipes import names

_SUCCESS = 1
_MESSAGES = """
name: "run_hparams.proto" package: "run_hparams" syntax: "proto3" dependency: "google/protobuf/struct.proto"
message_type { name: "PluginData"
  field { name: "start" number: 3 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".run_hparams.Start" }
  field { name: "end" number: 4 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".run_hparams.End" } }
message_type { name: "Start"
  nested_type { name: "HparamsEntry" options { map_entry: true }
    field { name: "key" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
    field { name: "value" number: 2 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".google.protobuf.Value" } }
  field { name: "hparams" number: 1 label: LABEL_REPEATED type: TYPE_MESSAGE
          type_name: ".run_hparams.Start.HparamsEntry" }
  field { name: "group_name" number: 4 label: LABEL_OPTIONAL type: TYPE_STRING }
  field { name: "start_time_secs" number: 5 label: LABEL_OPTIONAL type: TYPE_DOUBLE } }
message_type { name: "End"
  field { name: "status" number: 1 label: LABEL_OPTIONAL type: TYPE_INT32 }
  field { name: "end_time_secs" number: 2 label: LABEL_OPTIONAL type: TYPE_DOUBLE } }
"""


def _plugin_data():
    """A new message of TensorBoard's type HParamsPluginData."""
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(struct_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(text_format.Parse(_MESSAGES, descriptor_pb2.FileDescriptorProto()).SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName('run_hparams.PluginData'))()


def started(flags, name, now):
    """What says of a run that it has begun, as tf.Summary.

    Args:
        flags (dict): name to value; those that decide a training are taken, but for what is None. name (str): of the
            run; runs of equal flags are told apart by it. now (float): seconds since 1970.
    """
    data = _plugin_data()
    data.start.group_name, data.start.start_time_secs = name, now
    for flag in dict.fromkeys(['recipe', 'epochs', 'steps_per_epoch', *names(), *sections.fixing_a_run(), 'ranks']):
        value = flags.get(flag)
        if isinstance(value, bool):
            data.start.hparams[flag].bool_value = value
        elif isinstance(value, (int, float)):
            data.start.hparams[flag].number_value = value
        elif value is not None:
            data.start.hparams[flag].string_value = _as_text(value)
    return _summary('_hparams_/session_start_info', data)


def finished(now):
    """What says that it has come to its end."""
    data = _plugin_data()
    data.end.status, data.end.end_time_secs = _SUCCESS, now
    return _summary('_hparams_/session_end_info', data)


def _as_text(value):
    return ','.join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _summary(tag, data):
    plugin = tf.SummaryMetadata.PluginData(plugin_name='hparams', content=data.SerializeToString())
    return tf.Summary(value=[tf.Summary.Value(
        tag=tag, metadata=tf.SummaryMetadata(plugin_data=plugin), tensor=tf.make_tensor_proto([], tf.float32))])


class NoteFlags(Callback):
    """Gives a run's flags to TensorBoard before the first step, and at its end that it is finished.

    A run that stops before shows as one that goes on: TensorBoard believes what is said of an end first, and the run
    may be resumed.

    Args:
        flags (dict): name to value. folder (str): log directory. schedule (Schedule): with ``steps_per_epoch`` set.
    """

    def __init__(self, flags, folder, schedule):
        self.flags, self.folder, self.last_step = flags, folder, schedule.epochs * schedule.steps_per_epoch

    def _before_train(self):
        name = os.path.basename(os.path.normpath(self.folder))
        self.trainer.monitors.put_summary(started(self.flags, name, time.time()))

    def _after_train(self):
        if self.global_step >= self.last_step:
            self.trainer.monitors.put_summary(finished(time.time()))
