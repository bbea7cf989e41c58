"""A reward from an HTTP service: POST {"samples": [{"prompt", "response", "row"}]} → {"scores": [number a sample]}.

Certificates are checked, redirects are not followed, the answer's size is bounded, and a call is tried again only where
the service was not reached or says that it is busy.
"""

import asyncio
import json
from collections.abc import Sequence

import httpx

from scale_rlhf.config.schema import RunConfig
from scale_rlhf.errors import ConfigError, RunError
from scale_rlhf.experience.sample import Sample
from scale_rlhf.orchestration.deadlines import within
from scale_rlhf.reward.calls import Calls
from scale_rlhf.reward.interface import SHOWN, finite_scores
from scale_rlhf.reward.text import Reader
from scale_rlhf.telemetry.spans import Span

ATTEMPTS = 4
PAUSE = 0.25  # seconds before the second attempt; doubled before each that follows
BUSY = {429, 502, 503, 504}
SENT = ("prompt", "response", "row")


class ServiceReward:
    """`reward.replicas` calls at once. A call is late after reward.timeout_seconds, all its attempts together."""

    def __init__(self, config: RunConfig, url: str, reader: Reader):
        self.section, self.reader = config.reward, reader
        self.url = _checked(url)
        self._who = f"reward.url {self.url.copy_with(username=None, password=None)}"  # no password in messages
        self._client: httpx.AsyncClient | None = None
        self._slots = asyncio.Semaphore(config.reward.replicas)
        self._calls = Calls()

    async def start(self, options: Sequence[Sequence[dict]] | None = None, probe: Sequence[Sample] = ()) -> None:
        """There are no processes of ours to place."""
        self._client = httpx.AsyncClient(timeout=None)  # `within` has the deadline, for all attempts together
        if probe:
            await self.score(probe, fixed=True, group=0)
            await self.metrics()  # the probe is not part of the run

    async def score(self, samples: Sequence[Sample], *, fixed: bool, group: int) -> list[float]:
        documents = [{key: document[key] for key in SENT} for document in self.reader.documents(samples)]
        body = json.dumps({"samples": documents}, default=str).encode()
        with self._calls.one(len(samples)):
            async with self._slots:
                what = f"scoring of {len(samples)} samples"
                answer = await within(self._post(body, len(samples)), self.section.timeout_seconds, self._who, what)
        return finite_scores(self._scores(answer), len(samples), self._who)

    async def metrics(self) -> dict[str, float]:
        return self._calls.take()

    async def spans(self) -> dict[str, list[Span]]:
        """The calls since the last call, by lane of the timeline."""
        return {"reward/calls": self._calls.spans.take()}

    def close(self) -> None:
        """Drop the connections."""
        client, self._client = self._client, None
        try:
            asyncio.get_running_loop().create_task(client.aclose()) if client else None
        except RuntimeError:  # no loop runs any more: its sockets went with it
            pass

    async def _post(self, body: bytes, samples: int) -> bytes:
        """The answer of the first attempt that the service does not put off."""
        for attempt in range(ATTEMPTS):
            try:
                status, answer = await self._attempt(body, limit=1_000_000 + 100 * samples)
                problem = f"it answered {status}: {_shown(answer)}"
            except httpx.TransportError as error:
                status, problem = None, f"it could not be reached: {type(error).__name__}: {error}"
            if status == 200:
                return answer
            if status is not None and status not in BUSY:
                break
            if attempt + 1 < ATTEMPTS:
                await asyncio.sleep(PAUSE * 2**attempt)
        raise RunError(f"{self._who}: expected 200 and scores, but {problem} (attempt {attempt + 1} of {ATTEMPTS})")

    async def _attempt(self, body: bytes, limit: int) -> tuple[int, bytes]:
        received = bytearray()
        headers = {"Content-Type": "application/json"}
        async with self._client.stream("POST", self.url, content=body, headers=headers) as response:
            async for part in response.aiter_bytes():
                received += part
                if len(received) > limit:
                    raise RunError(f"{self._who}: the answer is longer than {limit} bytes; it begins {_shown(received)}")
        return response.status_code, bytes(received)

    def _scores(self, answer: bytes) -> object:
        try:
            return json.loads(answer)["scores"]
        except (ValueError, TypeError, KeyError) as error:
            raise RunError(f'{self._who}: expected JSON {{"scores": [numbers]}}; it returned {_shown(answer)}') from error


def _checked(url: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ConfigError(f"reward.url: expected an address, found {url!r}: {error}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigError(f"reward.url: expected http:// or https:// and a host, found {url!r}")
    return parsed


def _shown(answer: bytes | bytearray) -> str:
    return repr(bytes(answer[:SHOWN]).decode(errors="replace"))
