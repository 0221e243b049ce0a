"""A proxy in front of an object store: latency, throttling, cut connections and outages, and a count of every request.

It listens on this machine alone and hands the client's bytes on as they are, `Host` included: S3 signs it, so clients
keep the proxy's address and the store believes it to be its own. Its settings may be changed while it runs. What is
drawn by chance depends on the seed, the object, and how often it was asked for, not on the order of requests.
"""

import asyncio
import random
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, NamedTuple

from tests.http_messages import Head, body_pieces, content, error_answer, read_head, with_body, with_milliseconds
from tests.store_requests import Request

Outage = Literal["refused", "reset", "hanging"]
LARGEST_HEAD = 1 << 16  # bytes
BROKEN = (OSError, asyncio.IncompleteReadError)  # a connection that ended early


class PlannedOutage(NamedTuple):
    """An outage that begins and ends by what clients do."""

    after_gets: int
    connections: int


@dataclass
class StoreProxy:
    """The proxy while it is held, in a thread of its own: in front of the store at `upstream`, `http://host:port`.

    `latency` is in seconds a request. `throttled`, `cut` and `lost` are shares of 1: of all requests, of the GETs of
    objects, and of all other requests, which the store heeds though the connection ends before its answer. `denied` may
    answer a request with a status and an S3 error code. `milliseconds` are added to the times in listings, as MinIO,
    Ceph and GCS do; where `is_unconditional`, a condition that fails is answered as if it held.
    """

    upstream: str
    latency: float = 0.0
    throttled: float = 0.0
    cut: float = 0.0
    lost: float = 0.0
    denied: Callable[[Request], tuple[int, str] | None] | None = None
    milliseconds: int | None = None
    is_unconditional: bool = False
    seed: int = 0
    requests: list[Request] = field(default_factory=list)  # all that came, answered or not
    faults: Counter[str] = field(default_factory=Counter)  # how often each fault was done
    most_at_once: int = 0

    def __post_init__(self) -> None:
        self._outage: Outage | None = None
        self._planned: PlannedOutage | None = None
        self._at_once = 0
        self._sent: Counter[tuple[str, str]] = Counter()  # by method and path: where a body is cut decides about ranges
        self._clients: set[asyncio.StreamWriter] = set()
        self._listener: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="store proxy", daemon=True)
        self._held = socket.socket()  # keeps the port during an outage: bound, it refuses connections
        self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._held.bind(("127.0.0.1", 0))
        self._port = int(self._held.getsockname()[1])

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def kinds(self) -> Counter[str]:
        """How many requests of each kind came: GET, ranged GET, HEAD, LIST, PUT, DELETE, multipart create, …"""
        return Counter(request.kind for request in tuple(self.requests))

    def gets(self, ending: str = "") -> list[Request]:
        """The GETs of objects, ranged ones too, whose key ends so."""
        return [each for each in tuple(self.requests) if each.kind.endswith("GET") and each.path.endswith(ending)]

    def forget(self) -> None:
        """Count from here."""
        self.requests.clear()
        self.faults.clear()
        self.most_at_once = 0

    @property
    def outage(self) -> Outage | None:
        """Whether the store is away: it refuses connections, takes and resets them (and counts), or never answers."""
        return self._outage

    @outage.setter
    def outage(self, how: Outage | None) -> None:
        asyncio.run_coroutine_threadsafe(self._change(how), self._loop).result()

    def plan_outage(self, after_gets: int, connections: int) -> None:
        """Begin an outage after so many GETs of objects, and end it when it has reset so many connections."""
        self._planned = PlannedOutage(after_gets, connections)

    def __enter__(self) -> "StoreProxy":
        self._thread.start()
        self.outage = None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._held.close()

    async def _change(self, how: Outage | None) -> None:
        """Begin or end an outage: who is connected is cut off at its beginning, and who hangs at its end."""
        self._outage = how
        for client in tuple(self._clients):
            client.transport.abort()
        if how == "refused" and self._listener is not None:
            self._listener.close()
            self._listener = None
        elif how != "refused" and self._listener is None:
            self._listener = await asyncio.start_server(
                self._serve, "127.0.0.1", self._port, limit=LARGEST_HEAD, backlog=1024
            )

    async def _end(self) -> None:
        await self._change("refused")
        serving = asyncio.all_tasks() - {asyncio.current_task()}
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of a client, to its end."""
        if self._outage == "reset":
            writer.transport.abort()
            self.faults["reset"] += 1
            if self._planned is not None and self.faults["reset"] == self._planned.connections:
                self._planned = None
                await self._change(None)
            return
        self._clients.add(writer)
        store: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        with suppress(*BROKEN, asyncio.CancelledError):
            while (head := await read_head(reader)) is not None:
                if head.fields.get("expect"):
                    writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                body = [piece async for piece in body_pieces(reader, head)]
                with self._counted(head) as request:
                    if self._planned is not None and len(self.gets()) > self._planned.after_gets:
                        await self._change("reset")
                    await self._wait()
                    if (answer := self._fault(request)) is not None:
                        writer.write(answer)
                        continue
                    if store is None:
                        host, _, port = self.upstream.removeprefix("http://").partition(":")
                        store = await asyncio.open_connection(host, int(port), limit=LARGEST_HEAD)
                    store[1].writelines([head.text, *body])
                    await self._answer(request, store[0], writer)
                    await writer.drain()
        self._clients.discard(writer)
        for end in (writer, *(store or ())[1:]):
            end.transport.abort()

    @contextmanager
    def _counted(self, head: Head) -> Iterator[Request]:
        """The request that a head begins, counted, and as one in flight while it is held."""
        request = Request.of(head)
        self.requests.append(request)
        self._sent[request.method, request.path] += 1
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            yield request
        finally:
            self._at_once -= 1

    async def _wait(self) -> None:
        """The latency; during a hanging outage for ever: its end cuts the connection."""
        if self._outage == "hanging":
            await asyncio.Event().wait()
        await asyncio.sleep(self.latency)

    def _fault(self, request: Request) -> bytes | None:
        """The error that the request is answered with, if any; the store never sees it then."""
        if self._is_drawn("throttled", self.throttled, request):
            return error_answer(503, "SlowDown", request.method)
        if self.denied is not None and (denied := self.denied(request)) is not None:
            self.faults["denied"] += 1
            return error_answer(*denied, request.method)
        return None

    async def _answer(self, request: Request, store: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Hand the store's answer on, changed as the settings say. Raises `OSError` where the body is to be cut."""
        while (head := await read_head(store)) is not None and head.start.split(" ")[1] == "100":
            pass
        if head is None:
            raise ConnectionResetError("the store closed the connection")
        if request.method != "GET" and self._is_drawn("lost", self.lost, request):
            raise ConnectionResetError("lost, as was drawn")
        status = int(head.start.split(" ")[1])
        pieces = body_pieces(store, head, request.method)
        if self.is_unconditional and status in (409, 412) and request.method == "PUT":
            self.faults["unconditional"] += 1
            [_ async for _ in pieces]
            writer.write(b'HTTP/1.1 200 OK\r\nETag: "00000000000000000000000000000000"\r\nContent-Length: 0\r\n\r\n')
        elif self.milliseconds is not None and request.kind == "LIST":
            body = content([piece async for piece in pieces], head)
            writer.write(with_body(head, with_milliseconds(body, self.milliseconds)))
        else:
            is_cut = request.kind.endswith("GET") and status < 300 and self._is_drawn("cut", self.cut, request)
            writer.write(head.text)
            async for piece in pieces:
                writer.write(piece[: len(piece) // 2] if is_cut else piece)
                await writer.drain()
                if is_cut:
                    raise ConnectionResetError("cut, as was drawn")

    def _is_drawn(self, fault: str, share: float, request: Request) -> bool:
        if share <= 0:
            return False
        sent = request.method, request.path
        drawn = random.Random(f"{self.seed} {fault} {sent} {self._sent[sent]}").random() < share
        self.faults[fault] += drawn
        return drawn
