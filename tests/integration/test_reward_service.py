"""A real HTTP service on loopback, in its good and bad moods."""

import asyncio
import base64
import gzip
import json
import logging
import ssl
import subprocess
import threading
import time
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from scale_rlhf.config.schema import RunConfig
from scale_rlhf.errors import ConfigError, UserError
from scale_rlhf.reward.interface import ScoringFailed
from scale_rlhf.reward.service import ServiceReward
from scale_rlhf.reward.text import Reader, read_tokenizer
from tests.tiny import samples, tiny_tokenizer

BOMB = gzip.compress(b" " * 20_000_000, 1)  # unpacked it is longer than any answer may be


class Service:
    """Answers as `answers` says, the last again and again: (status, body), a function of the request, seconds of silence,
    or one of the ways to misbehave.
    """

    def __init__(self, tls: ssl.SSLContext | None = None):
        self.answers, self.requests, self.headers, self.at_once, self.most_at_once, self.sent = [], [], [], 0, 0, 0
        service, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    service.requests.append(asked)
                    service.headers.append(dict(self.headers))
                    service.at_once += 1
                    service.most_at_once = max(service.most_at_once, service.at_once)
                    answer = service.answers.pop(0) if len(service.answers) > 1 else service.answers[0]
                if isinstance(answer, float):
                    time.sleep(answer)
                    answer = (200, b"{}")
                if answer in ("hang up", "drip", "endless", "compressed"):
                    return self.misbehave(answer)
                status, body = answer(asked) if callable(answer) else answer
                with lock:
                    service.at_once -= 1
                try:
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(body)))
                    self.send_header("Location", "http://elsewhere/")
                    self.end_headers()
                    self.wfile.write(body)
                except OSError:
                    pass  # the caller went away, as some tests want

            def misbehave(self, how):
                try:
                    if how != "hang up":
                        self.send_response(200)
                    if how == "compressed":
                        self.send_header("Content-Encoding", "gzip")
                        self.send_header("Content-Length", str(len(BOMB)))
                    if how != "hang up":
                        self.end_headers()
                        self.send_body(how)
                except OSError:
                    pass  # the caller went away, as it should
                with lock:
                    service.at_once -= 1
                self.close_connection = True

            def send_body(self, how):
                if how == "drip":  # each byte in time, the whole never
                    for _ in range(40):
                        self.wfile.write(b" ")
                        time.sleep(0.05)
                elif how == "endless":
                    while True:
                        self.wfile.write(b" " * 65536)
                        service.sent += 65536
                else:
                    self.wfile.write(BOMB)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if tls:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.server.server_port}/score"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


def lengths(asked: dict) -> tuple[int, bytes]:
    return 200, json.dumps({"scores": [len(sample["response"]) for sample in asked["samples"]]}).encode()


def slow_lengths(asked: dict) -> tuple[int, bytes]:
    time.sleep(0.05)
    return lengths(asked)


@pytest.fixture
def service(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    made = Service()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def score(service, tmp_path):
    reader = Reader(read_tokenizer(str(tiny_tokenizer(tmp_path))))

    def run(answers, requests=1, url=None, **section):
        service.answers = list(answers)
        config = RunConfig(reward={"url": url or service.url, "timeout_seconds": 5.0, "retry_seconds": 0.02, **section})

        async def main():
            fleet = ServiceReward(config, config.reward.url, reader)
            await fleet.start()
            try:
                batch = samples(3)
                scores = await asyncio.gather(*(fleet.score(batch, fixed=True, group=0) for _ in range(requests)))
                return batch, scores, await fleet.metrics()
            except ScoringFailed as error:
                error.metrics = await fleet.metrics()
                raise
            finally:
                fleet.close()
                await asyncio.sleep(0)

        return asyncio.run(main())

    return run


def test_text_and_row_go_out_and_scores_come_back(score, service):
    batch, (scores,), metrics = score([lengths])
    sent = service.requests[0]["samples"]
    assert [set(sample) for sample in sent] == [{"prompt", "response", "row"}] * 3
    assert scores == [float(len(sample["response"])) for sample in sent]
    assert metrics["samples"] == 3 and 0 < metrics["latency_mean_seconds"] <= metrics["busy_seconds"] + 1e-3


def test_a_busy_service_is_asked_again(score, service):
    _, (scores,), _ = score([(503, b"busy"), (429, b"slower"), lengths])
    assert len(scores) == 3 and len(service.requests) == 3


def test_attempts_are_bounded(score, service):
    with pytest.raises(ScoringFailed, match=r"answered 503: 'busy'.*attempt 4 of 4"):
        score([(503, b"busy")])
    assert len(service.requests) == 4


@pytest.mark.parametrize(("answer", "said"), [
    ((500, b"out of cheese"), "answered 500: 'out of cheese'"), ((400, b"what?"), "answered 400"),
    ((200, b"<html>"), "returned '<html>'"), ((200, b'{"score": [1]}'), "expected JSON"), ((200, b"[1, 2, 3]"), "expected JSON"),
    ((200, b""), "expected JSON"), ((200, b"\xff\xfe\x00"), "expected JSON"), ((200, b"[" * 5000), "expected JSON"),
    ((200, b"\x80\x04\x95cposix\nsystem\n."), "expected JSON"),  # a pickle is nonsense like any other
    ((200, b'{"scores": [1, 2]}'), "it returned 2: [1, 2]"),
    ((200, b'{"scores": [1, 2, NaN]}'), "number 2 is nan"), ((200, b'{"scores": [1, 2, "3"]}'), "number 2 is '3'"),
    ((200, b'{"scores": [1, 2, 1e999]}'), "number 2 is inf"), ((200, b'{"scores": [1, 2, 1' + b"0" * 400 + b"]}"), "2 is 10"),
    ((200, b" " * 2_000_000), "longer than"), ("endless", "longer than"), ("hang up", "could not be reached"),
    ("compressed", "expected JSON"),  # taken as it is, not unpacked
])
def test_what_may_pass_is_asked_for_again_and_in_the_end_quoted(score, service, answer, said):
    with pytest.raises(ScoringFailed) as error:
        score([answer], retries=1)
    assert said in str(error.value) and service.url in str(error.value) and "(attempt 2 of 2)" in str(error.value)
    assert len(str(error.value)) < 1000
    assert len(service.requests) == 2 and service.sent < 50_000_000
    assert error.value.metrics["failed_tries"] == 2 and error.value.metrics["failed_calls"] == 1
    assert service.headers[0]["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("answer", [(200, b"<html>"), (500, b""), (200, b'{"scores": [1, 2, NaN]}'), 2.0, "drip", "hang up"])
def test_a_service_that_recovers_scores(score, service, answer):
    _, (scores,), metrics = score([answer, lengths], timeout_seconds=0.5)
    assert len(scores) == 3 and len(service.requests) == 2
    assert metrics["failed_tries"] == 1 and metrics["failed_calls"] == 0 and metrics["samples"] == 3


@pytest.mark.parametrize(("status", "said"), [
    (401, "user name and password"), (403, "answered 403"), (404, "Check reward.url"), (302, "Redirects are not followed"),
])
def test_what_no_other_try_can_mend_ends_the_run_at_once(score, service, status, said):
    with pytest.raises(ConfigError) as error:
        score([(status, b"no")])
    assert said in str(error.value) and len(service.requests) == 1 and not isinstance(error.value, ScoringFailed)


def test_pauses_double_and_are_the_same_every_time(score, service, monkeypatch):
    pauses = []

    async def sleep(seconds):
        pauses.append(seconds)

    monkeypatch.setattr("scale_rlhf.reward.retries.asyncio.sleep", sleep)
    for _ in range(2):
        with pytest.raises(ScoringFailed, match="attempt 10 of 10"):
            score([(503, b"")], retries=9, retry_seconds=0.5)
    waits = [seconds for seconds in pauses if seconds]  # the fixture's own has none
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0] * 2


def test_without_retries_there_is_one_attempt(score, service):
    with pytest.raises(ScoringFailed, match="attempt 1 of 1"):
        score([(503, b"busy")], retries=0)
    assert len(service.requests) == 1


@pytest.mark.parametrize("silence", [2.0, "drip"])
def test_a_hung_service_ends_at_the_deadline(score, service, silence):
    began = time.monotonic()
    with pytest.raises(ScoringFailed, match=r"scoring of 3 samples did not end within 0.5 s.*attempt 1 of 1"):
        score([silence], timeout_seconds=0.5, retries=0)
    assert time.monotonic() - began < 1.5


def test_every_attempt_has_the_deadline(score, service):
    began = time.monotonic()
    with pytest.raises(ScoringFailed, match=r"did not end within 0.3 s.*attempt 3 of 3"):
        score([2.0], timeout_seconds=0.3, retries=2)
    assert 0.9 < time.monotonic() - began < 3.0 and len(service.requests) == 3


def test_nobody_there(score):
    with pytest.raises(ScoringFailed, match="could not be reached.*attempt 4 of 4"):
        score([lengths], url="http://127.0.0.1:9/score")


def test_a_password_is_not_shown(score):
    with pytest.raises(ScoringFailed) as error:
        score([lengths], url="http://me:secret@127.0.0.1:9/score")
    assert "secret" not in str(error.value) and "127.0.0.1:9" in str(error.value)


@pytest.mark.parametrize("answer", [(500, b""), (401, b""), (200, b"<html>"), 2.0])
def test_user_name_password_and_key_reach_the_service_and_nothing_else(score, service, caplog, answer):
    caplog.set_level(logging.INFO)
    logging.getLogger("httpx").setLevel(logging.NOTSET)
    url = service.url.replace("://", "://me:pass-word@") + "?api_key=k-e-y"
    with pytest.raises(UserError) as error:
        score([answer], url=url, retries=0, timeout_seconds=0.3)
    assert service.headers[0]["Authorization"] == "Basic " + base64.b64encode(b"me:pass-word").decode()
    said = "".join(traceback.format_exception(error.value)) + caplog.text
    assert not any(secret in said for secret in ("pass-word", "k-e-y", base64.b64encode(b"me:pass-word").decode()))


def test_a_certificate_that_nobody_vouches_for_is_refused(score, tmp_path):
    """A real TLS server whose certificate signs itself."""
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "certificate.pem")
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate], capture_output=True, check=False,
    )
    if made.returncode:
        pytest.skip(f"openssl makes no certificate here: {made.stderr[-200:]}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    service = Service(context)
    try:
        with pytest.raises(ConfigError, match="certificate verify failed.*SSL_CERT_FILE"):
            score([lengths], url=service.url)
        assert not service.requests
    finally:
        service.server.shutdown()
        service.server.server_close()


@pytest.mark.parametrize("replicas", [1, 3])
def test_replicas_are_calls_at_once(score, service, replicas):
    score([slow_lengths], requests=6, replicas=replicas)
    assert len(service.requests) == 6 and service.most_at_once == replicas
