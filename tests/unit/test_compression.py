"""Large arguments and results are stored compressed, and a small message never unpacks to more than the limit."""

from __future__ import annotations

import base64
import json
import os
import sys
import tracemalloc
import zlib

import pytest

from jobs_core import App, hookimpl, job
from jobs_core.backends.base import Outcome
from jobs_core.backends.memory import forget
from jobs_core.config import Config, Payloads
from jobs_core.errors import ConfigError, MessageTooLarge, PluginError, ResultUnreadable
from jobs_core.ids import new_token
from jobs_core.loaders.base import PayloadCodec
from jobs_core.message import encode, new_message
from jobs_core.payloads import codecs
from jobs_core.plugins import PluginInfo, Plugins
from jobs_core.runs.outcome import settlement
from jobs_core.units import Size
from jobs_core.worker.decoder import Decoder

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

KEY = "k1:0123456789abcdefghijklmnopqrstuvwxyz"
LONG = "a line of a log, which is like the one before\n" * 1000
LIMIT = 100_000


class Zlib(PayloadCodec):
    """A plugin's codec that forgets the limit."""

    def compress(self, data):
        return zlib.compress(data)

    def decompress(self, data, limit):
        return zlib.decompress(data)


class WithZlib:
    @hookimpl
    def jobs_payload_codecs(self):
        return {"zlib": Zlib}


@pytest.fixture
def app_with(registry):
    made = []

    def app_with(compress="zstd", keys=(), limit=LIMIT, above=1000, max_message=1_000_000):
        payloads = Payloads(compress=compress, compress_above=Size(above), limit=Size(limit))
        config = Config(
            backend=f"memory://{new_token()}", encryption_keys=list(keys), payloads=payloads, max_message=Size(max_message)
        )
        plugins = Plugins()
        plugins._add(WithZlib(), PluginInfo("zlib", "jobs-zlib", "1"))
        made.append(App(config, plugins=plugins, registry=registry))
        return made[-1]

    yield app_with
    for app in made:
        app.close()
        forget(app.backend_url)


@pytest.fixture
def store(registry):
    @job(registry=registry, name="store", store_result=True)
    def store(text: str) -> str:
        return text

    return store


def enqueued(app, function, *args):
    """Return the delivery of a call that was enqueued with this application."""
    app.enqueue(function.call(*args))
    backend = app.new_backend()
    backend.open(new_token())
    [delivery] = backend.reserve(["default"], 1, new_token())
    backend.close()
    return delivery


def with_body(delivery, **body):
    envelope = json.loads(delivery.payload)
    envelope["body"] |= {name: base64.b64encode(value).decode() if name == "data" else value for name, value in body.items()}
    return type(delivery)(delivery.id, "default", json.dumps(envelope).encode(), delivery.token, 0, 0, 0, 0, 1000.0, 1000.0)


@pytest.mark.parametrize("keys", [(), (KEY,)])
@pytest.mark.parametrize("codec", ["zstd", "zlib"])
def test_large_arguments_and_results_are_stored_compressed_and_arrive_unchanged(app_with, store, codec, keys):
    app = app_with(codec, keys)
    delivery = enqueued(app, store, LONG)
    assert len(delivery.payload) < len(LONG) / 20
    assert json.loads(delivery.payload)["body"]["codec"] == codec
    run = Decoder(app).accept(delivery)
    assert run.args == [LONG]
    run.value = LONG
    result = settlement(run).result
    assert len(result) < len(LONG) / 20
    assert app.stored_result(delivery.id, result) == {"value": LONG}
    others = app_with(None, keys)  # one that compresses nothing reads all the same
    assert Decoder(others).accept(delivery).args == [LONG]
    assert others.stored_result(delivery.id, result) == {"value": LONG}


@pytest.mark.parametrize("text", ["short", base64.b64encode(os.urandom(3000)).decode()])
def test_small_or_incompressible_payloads_are_stored_as_they_are(app_with, store, text):
    message = new_message("store", "default", [text], {})
    app = app_with(above=1000)
    assert app.outgoing(message).payload == encode(message)
    assert app.payloads.result_packer(False)("id", b'{"value":1}') == b'{"value":1}'


def test_max_message_limits_the_stored_message_and_the_other_limit_its_content(app_with, store):
    app = app_with(max_message=10_000)
    assert Decoder(app).accept(enqueued(app, store, LONG)).args == [LONG]
    with pytest.raises(MessageTooLarge, match=r"store: the arguments are .* the limit is 100,000: .* raise payloads.limit"):
        app.enqueue(store.call(LONG * 3))


def bomb() -> bytes:
    """Return a few kilobytes that stand for 200 MB."""
    compressor, zeros = zstd.ZstdCompressor(), bytes(1_000_000)
    return b"".join(compressor.compress(zeros) for _ in range(200)) + compressor.flush()


BOMB = bomb()
NESTED_BOMB = zlib.compress(b"0" * (LIMIT + 1))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"data": BOMB}, "cannot be decompressed: it is larger than payloads.limit, 100,000 bytes"),
        ({"data": NESTED_BOMB, "codec": "zlib"}, "cannot be decompressed: it is larger than payloads.limit"),
        ({"data": b"no frame"}, "cannot be decompressed by zstd: it is damaged"),
        ({"data": b""}, "cannot be decompressed by zstd: it is damaged"),
        ({"data": zstd.compress(b"[[],{}]")[:-1]}, "cannot be decompressed by zstd: it is damaged"),
        ({"data": zstd.compress(b"{}")}, "not a list of args and kwargs"),
        ({"data": b"no frame", "codec": "zlib"}, "cannot be decompressed by zlib: it is damaged (error)"),
        ({"codec": "zsdt"}, "cannot be decompressed: codec: there is no codec 'zsdt': did you mean 'zstd'?"),
        ({"codec": None}, "not a list of args and kwargs"),
    ],
    ids=range(9),
)
def test_a_body_that_cannot_be_decompressed_is_a_dead_letter_that_fills_no_memory(app_with, store, body, says):
    app = app_with()
    delivery = with_body(enqueued(app, store, LONG), **body)
    decoder = Decoder(app)
    tracemalloc.start()
    try:
        ending = decoder.accept(delivery)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (ending.outcome, ending.reason) == (Outcome.DEAD, "bad payload")
    assert says in json.loads(ending.error)["message"]
    assert peak < 10 * LIMIT


def test_a_frame_that_asks_for_more_memory_than_a_decoder_must_have_is_refused():
    options = {zstd.CompressionParameter.window_log: 27, zstd.CompressionParameter.enable_long_distance_matching: 1}
    compressor = zstd.ZstdCompressor(options=options)
    frame = compressor.compress(b"x") + compressor.flush()
    with pytest.raises(zstd.ZstdError):
        codecs.Zstd().decompress(frame, LIMIT)


def test_the_codec_of_an_encrypted_body_cannot_be_changed(app_with, store):
    app = app_with(keys=[KEY])
    delivery = enqueued(app, store, LONG)
    for codec in (None, "zlib"):
        ending = Decoder(app).accept(with_body(delivery, codec=codec))
        assert "cannot be decrypted: it was changed" in json.loads(ending.error)["message"]


def test_a_result_that_cannot_be_decompressed_is_an_error_that_says_so(app_with):
    with pytest.raises(ResultUnreadable, match="its result cannot be decompressed: it is larger"):
        app_with().stored_result("id", b'{"body":{"codec":"zstd","data":"%s"}}' % base64.b64encode(BOMB))


def test_a_missing_codec_is_reported_at_the_first_use_with_the_key(app_with, store, monkeypatch):
    with pytest.raises(PluginError, match="payloads.compress: there is no codec 'brotli'"):
        app_with("brotli").enqueue(store.call(LONG))
    monkeypatch.setattr(codecs.importlib, "import_module", lambda name: (_ for _ in ()).throw(ImportError(name)))
    with pytest.raises(ConfigError, match=r"pip install 'jobs-core\[compression\]'"):
        app_with().enqueue(store.call(LONG))
