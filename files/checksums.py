"""JSON objects in text that ends with a CRC-32 of all that is before it: a changed bit is noticed, not believed."""
import json
import re
import zlib
from typing import Any, Dict

from files.typed import Malformed

_CHECKED = re.compile(rb'(\{.*), "crc32": "([0-9a-f]{8})"\}', re.DOTALL)


def with_checksum(content: Dict[str, Any]) -> str:
    """A dict, which must not be empty, as JSON text without its end of line, whose last value is the checksum."""
    body = json.dumps(content)[:-1]
    return '{}, "crc32": "{:08x}"}}'.format(body, zlib.crc32(body.encode()))


def without_checksum(text: bytes) -> bytes:
    """The JSON (bytes) of an object without its checksum, from bytes.

    Raises:
        Malformed: there is none, or it is wrong.
    """
    found = _CHECKED.fullmatch(text)
    if not found or zlib.crc32(found[1]) != int(found[2], 16):
        raise Malformed('its checksum is wrong' if found else 'it has no checksum')
    return found[1] + b'}'
