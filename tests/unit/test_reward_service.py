"""A real HTTP service on loopback, in its good and bad moods."""

import asyncio
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from scale_rlhf.config.schema import RunConfig
from scale_rlhf.errors import RunError
from scale_rlhf.reward.service import ServiceReward
from scale_rlhf.reward.text import Reader, read_tokenizer
from tests.tiny import samples, tiny_tokenizer


class Service:
    """Answers as `answers` says, the last again and again: (status, body), a function of the request, or seconds of silence."""

    def __init__(self):
        self.answers, self.requests, self.at_once, self.most_at_once = [], [], 0, 0
        service, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    service.requests.append(asked)
                    service.at_once += 1
                    service.most_at_once = max(service.most_at_once, service.at_once)
                    answer = service.answers.pop(0) if len(service.answers) > 1 else service.answers[0]
                if isinstance(answer, float):
                    time.sleep(answer)
                    answer = (200, b"{}")
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

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/score"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


def lengths(asked: dict) -> tuple[int, bytes]:
    return 200, json.dumps({"scores": [len(sample["response"]) for sample in asked["samples"]]}).encode()


def slow_lengths(asked: dict) -> tuple[int, bytes]:
    time.sleep(0.05)
    return lengths(asked)


@pytest.fixture
def service(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("scale_rlhf.reward.service.PAUSE", 0.02)
    made = Service()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def score(service, tmp_path):
    reader = Reader(read_tokenizer(str(tiny_tokenizer(tmp_path))))

    def run(answers, requests=1, url=None, **section):
        service.answers = list(answers)
        config = RunConfig(reward={"url": url or service.url, "timeout_seconds": 5.0, **section})

        async def main():
            fleet = ServiceReward(config, config.reward.url, reader)
            await fleet.start()
            try:
                batch = samples(3)
                scores = await asyncio.gather(*(fleet.score(batch, fixed=True, group=0) for _ in range(requests)))
                return batch, scores, await fleet.metrics()
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
    with pytest.raises(RunError, match=r"answered 503: 'busy'.*attempt 4 of 4"):
        score([(503, b"busy")])
    assert len(service.requests) == 4


@pytest.mark.parametrize(("answer", "said"), [
    ((500, b"out of cheese"), "answered 500: 'out of cheese'"), ((302, b""), "answered 302"),
    ((200, b"<html>"), "returned '<html>'"), ((200, b'{"score": [1]}'), "expected JSON"), ((200, b"[1, 2, 3]"), "expected JSON"),
    ((200, b'{"scores": [1, 2]}'), "it returned 2: [1, 2]"),
    ((200, b'{"scores": [1, 2, NaN]}'), "number 2 is nan"), ((200, b'{"scores": [1, 2, "3"]}'), "number 2 is '3'"),
    ((200, b" " * 2_000_000), "longer than"),
])
def test_a_wrong_answer_is_quoted_and_not_asked_for_again(score, service, answer, said):
    with pytest.raises(RunError) as error:
        score([answer])
    assert said in str(error.value) and service.url in str(error.value)
    assert len(service.requests) == 1


def test_a_hung_service_ends_at_the_deadline(score, service):
    began = time.monotonic()
    with pytest.raises(RunError, match=r"scoring of 3 samples did not end within 0.5 s"):
        score([2.0], timeout_seconds=0.5)
    assert time.monotonic() - began < 1.5


def test_nobody_there(score):
    with pytest.raises(RunError, match="could not be reached"):
        score([lengths], url="http://127.0.0.1:9/score")


def test_a_password_is_not_shown(score):
    with pytest.raises(RunError) as error:
        score([lengths], url="http://me:secret@127.0.0.1:9/score")
    assert "secret" not in str(error.value) and "127.0.0.1:9" in str(error.value)


@pytest.mark.parametrize("replicas", [1, 3])
def test_replicas_are_calls_at_once(score, service, replicas):
    score([slow_lengths], requests=6, replicas=replicas)
    assert len(service.requests) == 6 and service.most_at_once == replicas
