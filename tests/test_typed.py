"""JSON from outside: what fits passes as it is, everything else is one Malformed."""
import json

import pytest
from hypothesis import given, settings, strategies as st

from files import typed

CHECK = typed.record({
    'request': typed.one_of('hello', 'bye'), 'job': typed.text(5), 'pid': typed.whole(1, 100),
    'seconds': typed.number(0), 'rows': typed.list_of(typed.list_of(typed.whole(0, 9), 2, 2), 3),
    'open': typed.truth, 'note': typed.optional(typed.text(3))}, maybe=['note'])
GOOD = {'request': 'hello', 'job': 'a', 'pid': 7, 'seconds': 1, 'rows': [[1, 2]], 'open': True}

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner) |
    st.dictionaries(st.text(), inner), max_leaves=10)


@pytest.mark.parametrize('more', [{}, {'note': None}, {'note': 'abc'}, {'seconds': 0.5}, {'rows': []}])
def test_what_fits_comes_back_as_it_is(more):
    content = dict(GOOD, **more)
    assert typed.parse(json.dumps(content), CHECK, 'it') == content
    assert typed.parse(json.dumps(content).encode(), CHECK, 'it') == content


@pytest.mark.parametrize('change, named', [
    ({'request': 'HELLO'}, "it.request: 'HELLO' is none of 'hello', 'bye'"), ({'request': 1}, 'it.request'),
    ({'job': 'abcdef'}, 'it.job'), ({'job': None}, 'it.job'), ({'pid': 0}, 'it.pid'), ({'pid': 101}, 'it.pid'),
    ({'pid': True}, 'it.pid'), ({'pid': 1.0}, 'it.pid'), ({'pid': 10 ** 400}, 'a number of 1329 bits'),
    ({'seconds': -1}, 'it.seconds'), ({'seconds': '1'}, 'it.seconds'), ({'seconds': False}, 'it.seconds'),
    ({'seconds': 10 ** 400}, 'it.seconds'), ({'rows': [[1, 2]] * 4}, 'it.rows: a list of 4'),
    ({'rows': [[1, 2], [1]]}, r'it.rows\[1\]'), ({'rows': [[1, 10]]}, r'it.rows\[0\]\[1\]'), ({'rows': {}}, 'it.rows'),
    ({'open': 1}, 'it.open'), ({'note': 'abcd'}, 'it.note'), ({'more': 1}, "unknown 'more'")])
def test_what_does_not_fit_is_named(change, named):
    with pytest.raises(typed.Malformed, match=named):
        typed.parse(json.dumps(dict(GOOD, **change)), CHECK, 'it')


@pytest.mark.parametrize('content', [
    b'', b'{', b'\xff', b'5', b'null', b'[]', b'"a"', b'[' * 10 ** 5, b'9' * 5000, b'NaN', b'{"pid": 1e999}',
    json.dumps(dict(GOOD, seconds=float('nan'))).encode(), json.dumps(GOOD)[:-1] + ', "pid": 8}',
    json.dumps(GOOD).replace('"seconds": 1', '"seconds": 1e999')])
def test_what_is_no_json_of_the_kind_is_malformed(content):
    with pytest.raises(typed.Malformed, match='^it'):
        typed.parse(content, CHECK, 'it')


def test_a_missing_name_is_named():
    with pytest.raises(typed.Malformed, match='it: lacks pid'):
        typed.parse(json.dumps({name: value for name, value in GOOD.items() if name != 'pid'}), CHECK, 'it')


@settings(max_examples=500, deadline=None)
@given(JSON_VALUES | st.fixed_dictionaries({name: JSON_VALUES | st.just(value) for name, value in GOOD.items()}))
def test_any_json_passes_or_is_malformed_in_a_short_line(value):
    try:
        typed.parse(json.dumps(value), CHECK, 'it')
    except typed.Malformed as error:
        assert len(str(error)) < 300 and '\n' not in str(error)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_pass_or_are_malformed(content):
    try:
        typed.parse(content, CHECK, 'it')
    except typed.Malformed:
        pass
