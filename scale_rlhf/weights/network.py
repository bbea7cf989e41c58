"""Weights over the network, between hosts without GPUs: each rank of the policy serves the bytes that it wrote, and every
worker of every engine fetches them.

Nobody has to be there at a certain moment, as in a collective: an engine that joins late, or comes back, fetches the newest
version as the others do, and one that dies holds nobody up. Under ZeRO 3 each rank serves its shards; nothing is gathered.

    engine: key (32 bytes), version (8)                rank: 1, then (offset, size, bytes) of every piece, and (0, 0)
                                                             0: it does not hold that version
"""

import hmac
import secrets
import socket
import struct
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from scale_rlhf.errors import RunError
from scale_rlhf.weights.manifest import Piece, Source

KEY, VERSION, PIECE = 32, struct.Struct("!Q"), struct.Struct("!QQ")  # bytes of the key; version; offset and size
GREETING = 10.0  # seconds in which whoever connects says what it wants
FETCHES = 8  # ranks that an engine fetches from at once


class Server:
    """A rank's. Holds the two newest versions, so that one stays whole while the next is written."""

    def __init__(self, address: str, seconds: float):
        """address: of this node, as engines reach it. seconds: deadline of a version."""
        self.seconds, self.held = seconds, dict[int, tuple[Any, Sequence[Piece]]]()
        self.listener = socket.create_server((address, 0), backlog=1024)
        self.source = Source(address, self.listener.getsockname()[1], secrets.token_hex(KEY))
        threading.Thread(target=self._accept, daemon=True, name="weights-network").start()

    def hold(self, version: int, memory: Any, pieces: Sequence[Piece]) -> None:
        """Serve a version from `memory`, which must stay as it is until the version after the next."""
        self.held = {old: self.held[old] for old in sorted(self.held)[-1:]} | {version: (memory, pieces)}

    def close(self) -> None:
        """Serve no more; a second call does nothing."""
        if self.listener.fileno() < 0:
            return
        self.listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts, which would hold the port
        self.listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True, name="weights-network").start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                connection.settimeout(GREETING)
                asked = _receive(connection, memoryview(bytearray(KEY + VERSION.size)))
                if not hmac.compare_digest(bytes(asked[:KEY]), bytes.fromhex(self.source.key)):
                    return
                connection.settimeout(self.seconds)
                self._send(connection, *VERSION.unpack(asked[KEY:]))
            except OSError:  # it went away, or is too slow: it says so itself
                return

    def _send(self, connection: socket.socket, version: int) -> None:
        if version not in self.held:
            connection.sendall(b"\0")
            return
        memory, pieces = self.held[version]
        view = memoryview(memory)
        connection.sendall(b"\1")
        for piece in pieces:
            connection.sendall(PIECE.pack(piece.offset, piece.size))
            connection.sendall(view[piece.offset : piece.offset + piece.size])
        connection.sendall(PIECE.pack(0, 0))


class Fetcher:
    """A worker's of an engine."""

    def __init__(self) -> None:
        self.memory = np.empty(0, dtype=np.uint8)

    def fetch(self, version: int, size: int, sources: Sequence[Source], seconds: float) -> np.ndarray:
        """A version's bytes, uint8 [size], in memory that is used again for the next. RunError names who did not give them."""
        if len(self.memory) != size:
            self.memory = np.zeros(size, dtype=np.uint8)
        with ThreadPoolExecutor(min(len(sources), FETCHES), "weights-fetch") as threads:
            list(threads.map(lambda source: _fetch(source, version, self.memory, seconds), sources))
        return self.memory


def _fetch(source: Source, version: int, memory: np.ndarray, seconds: float) -> None:
    who, view = f"the policy's rank at {source.address}:{source.port}", memoryview(memory)
    try:
        with socket.create_connection((source.address, source.port), timeout=seconds) as connection:
            connection.sendall(bytes.fromhex(source.key) + VERSION.pack(version))
            if _receive(connection, memoryview(bytearray(1))) != b"\1":
                raise RunError(f"weights: {who} no longer holds version {version}")
            while True:
                offset, size = PIECE.unpack(_receive(connection, memoryview(bytearray(PIECE.size))))
                if not size:
                    return
                if offset + size > len(view):
                    raise RunError(f"weights: {who} sent more than version {version} is")
                _receive(connection, view[offset : offset + size])
    except OSError as error:
        raise RunError(f"weights: version {version} did not come from {who} within {seconds:g} s: {error}") from error


def _receive(connection: socket.socket, into: memoryview) -> memoryview:
    """Fills `into`. ConnectionError where the other side ends first."""
    got = 0
    while got < len(into):
        count = connection.recv_into(into[got:])
        if not count:
            raise ConnectionError("it closed the connection")
        got += count
    return into
