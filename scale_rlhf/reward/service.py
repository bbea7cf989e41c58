"""A reward from an HTTP service: POST {"samples": [{"prompt", "response", "row"}]} → {"scores": [number a sample]}.

Certificates are checked, redirects are not followed, the answer's size is bounded and it is JSON, never anything that could
run. What may pass (no connection, silence, an error of the service, nonsense) is tried again; what cannot (an address that
is not there, a password that is refused, a certificate that nobody vouches for) is a ConfigError at once.
"""

import asyncio
import json
import logging
import ssl
from collections.abc import Sequence

import httpx

from scale_rlhf.config.schema import RunConfig
from scale_rlhf.errors import ConfigError, RunError, UserError
from scale_rlhf.experience.sample import Sample
from scale_rlhf.orchestration.deadlines import within
from scale_rlhf.reward.calls import Calls
from scale_rlhf.reward.interface import SHOWN, ScoringFailed, finite_scores
from scale_rlhf.reward.retries import with_retries
from scale_rlhf.reward.text import Reader
from scale_rlhf.telemetry.spans import Span

# Answers that say that the address or the right to use it is wrong. Redirects (3xx) are such too.
REFUSALS = {401, 403, 404, 405, 407, 410}
SENT = ("prompt", "response", "row")
# A compressed answer could be a thousand times its size: it is asked for as it is.
HEADERS = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}


class ServiceReward:
    """`reward.replicas` calls at once. Each try of a call is late after reward.timeout_seconds."""

    health = None  # no process of ours is behind it

    def __init__(self, config: RunConfig, url: str, reader: Reader):
        self.section, self.reader = config.reward, reader
        given = _checked(url)
        self._auth = (given.username, given.password) if given.username or given.password else None
        self.url = given.copy_with(username=None, password=None)  # no password in messages, nor in other libraries' logs
        self._who = f"reward.url {self.url.copy_with(query=None)}"  # a query often holds a key
        self._client: httpx.AsyncClient | None = None
        self._slots = asyncio.Semaphore(config.reward.replicas)
        self._calls = Calls()

    async def start(self, options: Sequence[Sequence[dict]] | None = None, probe: Sequence[Sample] = ()) -> None:
        """There are no processes of ours to place."""
        for name in ("httpx", "httpcore"):  # they log every address, with the key in its query
            logging.getLogger(name).setLevel(logging.WARNING)
        # `within` has the deadline of a try: a timeout here would be of each read, and slow drops would pass it
        self._client = httpx.AsyncClient(timeout=None, auth=self._auth, headers=HEADERS, follow_redirects=False, verify=True)
        if probe:
            await self.score(probe, fixed=True, group=0)
            await self.metrics()  # the probe is not part of the run

    async def score(self, samples: Sequence[Sample], *, fixed: bool, group: int) -> list[float]:
        documents = [{key: document[key] for key in SENT} for document in self.reader.documents(samples)]
        body = json.dumps({"samples": documents}, default=str).encode()
        with self._calls.one(len(samples)):
            return await with_retries(lambda: self._attempt(body, len(samples)), self.section, self._calls)

    async def metrics(self) -> dict[str, float]:
        return self._calls.take()

    async def spans(self) -> dict[str, list[Span]]:
        """The calls since the last call, by lane of the timeline."""
        return {"reward/calls": self._calls.take_spans()}

    def close(self) -> None:
        """Drop the connections."""
        client, self._client = self._client, None
        try:
            asyncio.get_running_loop().create_task(client.aclose()) if client else None
        except RuntimeError:  # no loop runs any more: its sockets went with it
            pass

    async def _attempt(self, body: bytes, samples: int) -> list[float]:
        """Scores from one try. Raises ScoringFailed where another may do better, ConfigError where none can."""
        async with self._slots:
            try:
                what = f"scoring of {samples} samples"
                status, answer = await within(self._post(body, samples), self.section.timeout_seconds, self._who, what)
            except (ConfigError, ScoringFailed):
                raise
            except RunError as error:  # it is late
                raise ScoringFailed(str(error)) from error
        if status != 200:
            raise self._refused(status, answer)
        return finite_scores(self._scores(answer), samples, self._who)

    async def _post(self, body: bytes, samples: int) -> tuple[int, bytes]:
        """Status and body of the answer."""
        limit = 1_000_000 + 100 * samples  # bytes: a score in JSON has 25 at most; the rest is for what a service adds
        received = bytearray()
        try:
            async with self._client.stream("POST", self.url, content=body) as response:
                async for part in response.aiter_raw():
                    received += part
                    if len(received) > limit:
                        raise ScoringFailed(f"{self._who}: the answer is longer than {limit} bytes; it begins {_shown(received)}")
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        return response.status_code, bytes(received)

    def _refused(self, status: int, answer: bytes) -> UserError:
        said = f"{self._who}: expected 200 and scores, but it answered {status}: {_shown(answer)}"
        if status in REFUSALS:
            return ConfigError(f"{said}. Check reward.url, with the user name and password or the key that the service asks for")
        if 300 <= status < 400:
            return ConfigError(f"{said}. Redirects are not followed; give the address itself as reward.url")
        return ScoringFailed(said)

    def _unreachable(self, error: httpx.HTTPError) -> UserError:
        said = f"{self._who}: expected 200 and scores, but it could not be reached: {type(error).__name__}: {error}"
        if _distrusted(error):
            return ConfigError(f"{said}. If the certificate is of an authority of your own, name its file in SSL_CERT_FILE")
        return ScoringFailed(said)

    def _scores(self, answer: bytes) -> object:
        try:
            return json.loads(answer)["scores"]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ScoringFailed(f'{self._who}: expected JSON {{"scores": [numbers]}}; it returned {_shown(answer)}') from error


def _checked(url: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as error:
        raise ConfigError(f"reward.url: expected an address, found {url!r}: {error}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigError(f"reward.url: expected http:// or https:// and a host, found {url!r}")
    return parsed


def _distrusted(error: BaseException | None) -> bool:
    """Whether a certificate that could not be verified is behind it."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _shown(answer: bytes | bytearray) -> str:
    return repr(bytes(answer[:SHOWN]).decode(errors="replace"))
