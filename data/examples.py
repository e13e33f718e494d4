"""The message of a record: tf.train.Example, by protocol buffers without TensorFlow."""
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory


def _example_class() -> Any:
    """The message class of tf.train.Example, as far as it is needed.

    Built in a pool of its own, so a process may import TensorFlow, which registers the same messages, as well.
    """
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name='imagedata/example.proto', package='imagedata', syntax='proto3')

    def add_message(messages: Any, name: str, *fields: Any) -> Any:
        message = messages.add(name=name)
        for number, label, name, kind in fields:
            new = message.field.add(name=name, number=number, label=label)
            if isinstance(kind, str):
                new.type, new.type_name = field.TYPE_MESSAGE, '.imagedata.' + kind
            else:
                new.type = kind
        return message
    one, many = field.LABEL_OPTIONAL, field.LABEL_REPEATED
    add_message(file.message_type, 'BytesList', (1, many, 'value', field.TYPE_BYTES))
    add_message(file.message_type, 'Int64List', (1, many, 'value', field.TYPE_INT64))
    add_message(file.message_type, 'Feature', (1, one, 'bytes_list', 'BytesList'), (3, one, 'int64_list', 'Int64List'))
    features = add_message(file.message_type, 'Features', (1, many, 'feature', 'Features.FeatureEntry'))
    entry = add_message(features.nested_type, 'FeatureEntry', (1, one, 'key', field.TYPE_STRING),
                        (2, one, 'value', 'Feature'))
    entry.options.map_entry = True
    add_message(file.message_type, 'Example', (1, one, 'features', 'Features'))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName('imagedata.Example'))


Example = _example_class()
