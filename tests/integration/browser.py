"""A headless Chromium, driven by Debian's chromium-driver over the W3C WebDriver protocol: plain HTTP, no package of its own."""

import base64
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from scale_rlhf.training.process_group import free_port

INSTALLED = shutil.which("chromium") is not None and shutil.which("chromedriver") is not None
_ARGUMENTS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1400,900",
              "--disable-background-networking", "--no-proxy-server"]


class Browser:
    """One window."""

    def __init__(self, address: str):
        self.client = httpx.Client(base_url=address, timeout=60, trust_env=False)
        options = {"browserName": "chrome", "goog:chromeOptions": {"binary": shutil.which("chromium"), "args": _ARGUMENTS}}
        self.session = self._post("/session", capabilities={"alwaysMatch": options})["sessionId"]

    def open(self, address: str) -> None:
        self._post(f"/session/{self.session}/url", url=address)

    def run(self, script: str, *arguments: object) -> object:
        """The value that the script gives to its callback, the last of its arguments."""
        return self._post(f"/session/{self.session}/execute/async", script=script, args=list(arguments))

    def text(self) -> str:
        """What the page shows."""
        return self.run("arguments[0](document.body.innerText)")

    def until(self, *words: str, seconds: float = 60.0) -> str:
        """The page's text once it has all of the words."""
        end = time.monotonic() + seconds
        while not all(word in (text := self.text()) for word in words):
            assert time.monotonic() < end, f"{[word for word in words if word not in text]} not in: {text[:3000]}"
            time.sleep(0.5)
        return text

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.client.get(f"/session/{self.session}/screenshot").json()["value"]))

    def close(self) -> None:
        self.client.delete(f"/session/{self.session}")
        self.client.close()

    def _post(self, path: str, **body: object):
        answer = self.client.post(path, json=body)
        assert answer.status_code == 200, answer.text[:1000]
        return answer.json()["value"]


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser whose processes are gone afterwards."""
    port = free_port()
    driver = subprocess.Popen(["chromedriver", f"--port={port}", "--log-level=SEVERE"], stdout=subprocess.DEVNULL)
    try:
        _wait(f"http://127.0.0.1:{port}/status")
        window = Browser(f"http://127.0.0.1:{port}")
        try:
            yield window
        finally:
            window.close()
    finally:
        driver.terminate()
        driver.wait(20)


def _wait(address: str) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            if httpx.get(address, trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.2)
    raise AssertionError(f"{address} does not answer")
