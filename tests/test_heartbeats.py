"""ranks/heartbeats.py: any datagram is survived, and only the signs of the rank before count.

The datagrams go over real UDP sockets, on 127.0.0.1 alone, to the thread of a ``Heartbeats`` whose other rank is this
test; expected ones are made here with `hmac` from the format's description.
"""
import hashlib
import hmac
import json
import os
import secrets
import socket
import struct
import threading
import time

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from ranks import heartbeats
from ranks.launched import Ranks

ME, OTHER = 0, 1
BEAT, BYE = 1, 2
PROMPT = 10.0  # s; an upper bound on "soon" that a loaded machine keeps


def datagram(key, rank=OTHER, number=1, sign=BEAT):
    content = struct.pack('<QQB', rank, number, sign)
    return content + hmac.new(key, content, hashlib.sha256).digest()


class Peer:
    """Rank 1 of a job of two: where rank 0's thread listens, its key, and what it does."""

    def __init__(self):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(('127.0.0.1', 0))
        self.socket.settimeout(PROMPT)
        self.said, self.ended, self.number = [], [], 0
        self.port = self.key = None

    def gather(self, _, text):
        """In place of ``gather_texts``: this rank's part."""
        me = json.loads(text)
        self.port, self.key = me['port'], bytes.fromhex(me['key'])
        return [text, json.dumps({'port': self.socket.getsockname()[1], 'hosts': ['127.0.0.1'],
                                  'key': secrets.token_hex(32)})]

    def send(self, message):
        try:
            self.socket.sendto(message, ('127.0.0.1', self.port))
        except OSError:  # too long for one
            assert len(message) > 60000

    def beat(self, **fields):
        self.number += 1
        self.send(datagram(self.key, **dict({'number': self.number}, **fields)))


@pytest.fixture
def peer(monkeypatch):
    peer = Peer()
    monkeypatch.setattr(heartbeats, 'gather_texts', peer.gather)
    monkeypatch.setattr(heartbeats, '_say', peer.said.append)
    monkeypatch.setattr(heartbeats, '_end', peer.ended.append)
    monkeypatch.setattr(heartbeats, 'PERIOD', 0.05)
    with heartbeats.Heartbeats(Ranks(ME, 2, ME, 2)) as peer.heartbeats:
        yield peer
        assert peer.heartbeats._thread.is_alive()
    assert not peer.heartbeats._thread.is_alive()
    peer.socket.close()


def wait_for(condition):
    deadline = time.monotonic() + PROMPT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def hears(peer):
    """Whether the next beat of the rank is heard."""
    silence = peer.heartbeats._silence
    silence.seconds = 1.0
    peer.beat()
    wait_for(lambda: silence.seconds < 1.0)
    return True


NASTY = [b'', b'5', b'null', b'[]', b'{}', b'"', b'1e999', b'[' * 5000, b'\xff' * 49, b'\0' * 49, b'x' * 60000, b'NaN',
         b'["job", 0, "beat"]', json.dumps(['job', OTHER, 'beat']).encode()]


@pytest.mark.parametrize('message', NASTY, ids=lambda message: repr(message[:20]))
def test_any_datagram_is_survived_counted_and_no_sign_of_life(peer, message):
    before = peer.heartbeats._silence.seconds
    for _ in range(3):
        peer.send(message)
    wait_for(lambda: peer.heartbeats._ear.strangers == 3)
    wait_for(lambda: peer.heartbeats._silence.seconds > before + 0.1)
    assert hears(peer)


def test_strangers_are_said_once_and_the_rest_later(peer):
    for _ in range(40):
        peer.send(b'5')
    wait_for(lambda: peer.said)
    peer.send(b'null')
    time.sleep(0.2)
    line, = peer.said
    assert 'are not from this job' in line


def test_the_warning_of_strangers_comes_again_after_a_while_with_their_count():
    said = []
    report = heartbeats.StrangersReport(said.append)
    report.passed(1, 0)
    report.passed(1, 2)
    for _ in range(599):
        report.passed(1, 7)
    assert [line.split()[0] for line in said] == ['2']
    report.passed(1, 7)
    for _ in range(2000):
        report.passed(1, 7)
    assert [line.split()[0] for line in said] == ['2', '7']


@pytest.mark.parametrize('change', [
    lambda key: datagram(secrets.token_bytes(32)), lambda key: datagram(b''), lambda key: datagram(key)[:-1],
    lambda key: datagram(key) + b'\0', lambda key: struct.pack('<QQB', OTHER, 9, BEAT),
    lambda key: struct.pack('<QQB', OTHER, 9, BEAT) + datagram(key)[17:]])
def test_a_forged_heartbeat_is_none(change):
    key = secrets.token_bytes(32)
    ear = heartbeats.Ear(key, OTHER)
    assert ear.hear(change(key)) is None and ear.strangers == 1
    assert ear.hear(datagram(key)) == BEAT and ear.strangers == 1


def test_a_heartbeat_counts_once_and_only_of_the_rank_before_and_no_old_one():
    key = secrets.token_bytes(32)
    ear = heartbeats.Ear(key, OTHER)
    assert ear.hear(datagram(key, rank=2, number=50)) is None
    assert [ear.hear(datagram(key, number=number)) for number in (1, 1, 2, 5, 3, 5, 6)] == [
        BEAT, None, BEAT, BEAT, None, None, BEAT]
    assert ear.hear(datagram(key, number=7, sign=BYE)) == BYE and ear.strangers == 0


def test_what_a_rank_sends_is_what_the_next_one_hears(peer):
    ear = heartbeats.Ear(peer.key, ME)
    assert [ear.hear(peer.socket.recv(256)) for _ in range(3)] == [BEAT] * 3


def test_a_silent_rank_is_said_and_a_bye_ends_the_watch(peer):
    peer.beat()
    silence = peer.heartbeats._silence
    silence.times.warn = 0.2
    wait_for(lambda: any('rank 1 has been silent' in line for line in peer.said))
    peer.beat(sign=BYE)
    time.sleep(0.2)
    seconds = silence.seconds
    time.sleep(0.2)
    assert silence.seconds == seconds


def test_a_flood_does_not_end_the_job(peer, monkeypatch):
    """More than is read in a period, for some of them; the silence that it causes does not count."""
    monkeypatch.setattr(heartbeats, 'MOST', 5)
    peer.beat()
    wait_for(lambda: peer.heartbeats._silence._heard)
    peer.heartbeats._silence.times.end = 0.4
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        peer.send(b'5')
        time.sleep(0.0005)
    assert not peer.ended
    monkeypatch.setattr(heartbeats, 'MOST', 10000)
    wait_for(lambda: peer.ended)  # the rank is silent indeed


def test_the_thread_ends_at_once_and_leaves_no_descriptor(monkeypatch):
    peer = Peer()
    monkeypatch.setattr(heartbeats, 'gather_texts', peer.gather)
    monkeypatch.setattr(heartbeats, 'PERIOD', 2 * PROMPT)  # it does not sleep to the end of one
    before, threads = len(os.listdir('/proc/self/fd')), set(threading.enumerate())
    for _ in range(5):
        begin = time.monotonic()
        with heartbeats.Heartbeats(Ranks(ME, 2, ME, 2)):
            pass
        assert time.monotonic() - begin < PROMPT
    # Less is there where another test's thread has just ended.
    assert len(os.listdir('/proc/self/fd')) <= before and set(threading.enumerate()) <= threads


def datagrams(key):
    """Any bytes, JSON values, and damaged heartbeats of the job."""
    whole = st.builds(lambda rank, number, sign: datagram(key, rank, number, sign), st.integers(0, 3),
                      st.integers(0, 2 ** 64 - 1), st.integers(0, 255))
    cut = st.builds(lambda message, at: message[:at], whole, st.integers(0, 48))
    changed = st.builds(lambda message, at, byte: message[:at] + bytes([message[at] ^ byte]) + message[at + 1:], whole,
                        st.integers(0, 48), st.integers(1, 255))
    swapped = st.builds(lambda first, second, at: first[:at] + second[at:], whole, whole, st.integers(1, 16)).filter(
        lambda message: hmac.new(key, message[:17], hashlib.sha256).digest() != message[17:])
    text = st.builds(lambda form, value: (form % json.dumps(value)).encode(), st.sampled_from(
        ['%s', '[%s]', '["job", 1, %s]', '{"a": %s}', '[[[[%s']), st.none() | st.integers() | st.floats() | st.text())
    return st.one_of(st.binary(max_size=300), text, cut, changed, swapped)


BUNDLE = 20  # datagrams of one example: a few at a time are made faster


@pytest.mark.parametrize('count', [2000, pytest.param(100000, marks=pytest.mark.slow)])
def test_made_up_datagrams_leave_the_heartbeats_alive(peer, count):
    sent = []

    @settings(max_examples=count // BUNDLE, deadline=None, derandomize=True, database=None,
              suppress_health_check=list(HealthCheck))
    @given(messages=st.lists(datagrams(peer.key), min_size=BUNDLE, max_size=BUNDLE, unique=True))
    def send(messages):
        for message in messages:
            peer.send(message)
        sent.extend(messages)
        if len(sent) % (5 * BUNDLE) == 0:  # no more than a socket's buffer takes
            wait_for(lambda: peer.heartbeats._ear.strangers == len(sent))
    send()
    wait_for(lambda: peer.heartbeats._ear.strangers == len(sent))
    assert len(sent) == count and len(set(sent)) > count / 3
    assert hears(peer) and not peer.ended
