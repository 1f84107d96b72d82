"""The server: it runs beside a notebook, or as ``mltrigger serve``."""

from __future__ import annotations

import atexit
import logging
import socket
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mltrigger.api.access import Tokens
from mltrigger.api.seats import Cockpit
from mltrigger.api.settings import HEAD_BYTES, LOOPBACK, Doors, Hooks, Limits
from mltrigger.errors import InvalidName, MltriggerError, how_to_install
from mltrigger.text import card

if TYPE_CHECKING:
    from mltrigger.bus import EventBus

STOP_S = 10.0
"""How long requests under way may take when the server stops."""
_MOST_SILENT = 1_000
"""The most connections without a request. With more of them the oldest is closed."""
_TICKET_S = 600.0
"""How long the address of the cockpit opens it."""
_OPENS_S = 10.0
_BACKLOG = 512
"""The connections that are accepted at a time. Their requests are read before the next ones."""


class Server:
    """Serves one bus over HTTP in a thread, until :meth:`stop`. Made by ``mt.serve``.

    Attributes
    ----------
    url : str
        Where it is, such as ``http://127.0.0.1:8000``.
    token : str
        A token for everything. It lives as long as the server. A repr does not show it.
    """

    def __init__(
        self,
        bus: EventBus,
        host: str,
        port: int,
        doors: Doors,
        limits: Limits,
        hooks: Hooks,
        cockpit: Cockpit | None = None,
    ) -> None:
        try:
            import uvicorn

            from mltrigger.api.app import application
            from mltrigger.api.connections import connections
        except ImportError as error:
            raise MltriggerError(
                f"the server needs {error.name}: {how_to_install('serve')}"
            ) from error
        for logger in ("uvicorn", "uvicorn.error"):
            # A library never prints. Users who want its messages configure these loggers.
            logging.getLogger(logger).addHandler(logging.NullHandler())
        self._tokens = Tokens(bus.registry)
        self.token = self._tokens.passing("serve", ["administer"])
        self._app = application(bus, self._tokens, doors, limits, hooks, cockpit)
        self._has_cockpit = cockpit is not None
        self._socket = _bound(host, port)
        name = f"[{host}]" if ":" in host else host
        self.url = f"http://{name}:{self._socket.getsockname()[1]}"
        self._uvicorn = uvicorn.Server(
            uvicorn.Config(
                self._app.gate,
                http=connections(_most_silent(), limits.head_s, limits.body_s),  # type: ignore[arg-type]
                ws="none",
                backlog=_BACKLOG,
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                lifespan="on",
                h11_max_incomplete_event_size=HEAD_BYTES,
                timeout_graceful_shutdown=int(STOP_S),
                timeout_keep_alive=15,
            )
        )
        self._thread = threading.Thread(
            target=self._uvicorn.run, args=([self._socket],), name="mltrigger-serve", daemon=True
        )
        self._thread.start()
        self._wait_until_open()
        atexit.register(self.stop)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"Server({'serving' if self.is_serving else 'stopped'})"

    def _repr_html_(self) -> str:
        state = "serving" if self.is_serving else "stopped"
        return card(
            "Server", [("state", state), ("where", "server.url"), ("token", "server.token")]
        )

    @property
    def is_serving(self) -> bool:
        """Whether it answers."""
        return self._thread.is_alive() and self._uvicorn.started

    def cockpit_url(self, read_only: bool = False) -> str:
        """Return an address that opens the cockpit in a browser, once, within ten minutes.

        Parameters
        ----------
        read_only : bool
            Whether all actions are refused there.

        Raises
        ------
        MltriggerError
            When the server has no cockpit.
        """
        if not self._has_cockpit:
            raise MltriggerError("this server has no cockpit: `mltrigger dashboard` serves one")
        token = self.token
        if read_only:
            token = self._tokens.passing("dashboard", ["read"])
        ticket = self._app.sessions.ticket(token, "/v1/cockpit", _TICKET_S)
        return f"{self.url}/v1/cockpit?ticket={ticket}"

    def stop(self) -> None:
        """Stop. Requests under way get their answers, streams end. Idempotent."""
        self._tokens.end_passing()
        self._app.stop()
        self._uvicorn.should_exit = True
        if threading.current_thread() is not self._thread:
            self._thread.join(STOP_S + 2.0)
        self._socket.close()
        atexit.unregister(self.stop)

    def _wait_until_open(self) -> None:
        waited = threading.Event()
        for _ in range(int(_OPENS_S / 0.01)):
            if self._uvicorn.started or not self._thread.is_alive():
                break
            waited.wait(0.01)
        if not self.is_serving:
            self._socket.close()
            raise MltriggerError("the server did not start: the log says why")


def serve(
    bus: EventBus | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    hosts: Sequence[str] = (),
    origins: Sequence[str] = (),
    webhooks: Mapping[str, str | Sequence[str]] | None = None,
    webhook_origins: Sequence[str] = (),
    body_mb: float = 16.0,
    head_s: float = 10.0,
    body_s: float = 30.0,
    rate_per_s: float = 2_000.0,
    streams: int = 100,
    cockpit: Cockpit | None = None,
) -> Server:
    """Serve a bus over HTTP beside this notebook: every topic and model version is an API.

    Parameters
    ----------
    bus : EventBus, optional
        The bus. Default: that of the module.
    host, port : str, int
        The address to listen on. Port 0 takes a free one.
    hosts : sequence of str
        More names by which clients call it, such as ``api.example.org``. Other names are refused.
        Needed unless *host* is this machine's own.
    origins : sequence of str
        The pages elsewhere that may call, such as ``https://app.example.org``. Default: none.
    webhooks : mapping, optional
        Topic -> one secret or several, written ``env:NAME``. ``POST /v1/webhooks/TOPIC`` takes
        events that are signed with one of them (Standard Webhooks).
    webhook_origins : sequence of str
        The senders that may ask for permission (CloudEvents webhooks), such as
        ``eventgrid.azure.net``.
    body_mb : float
        The largest body, in MB.
    head_s, body_s : float
        How long the head and the body of a request may take to arrive, in seconds.
    rate_per_s : float
        The requests of one token a second.
    streams : int
        The most open streams.
    cockpit : Cockpit, optional
        The parts of the cockpit. The commands give them. Default: there is no such page.

    Returns
    -------
    Server
        It has ``url`` and ``token``. ``stop()`` ends it.

    Raises
    ------
    MltriggerError
        When the extra ``serve`` is missing, or the address is taken.

    Examples
    --------
    >>> with mt.serve() as server:                                     # doctest: +SKIP
    ...     requests.post(server.url + "/v1/topics/documents/events", json={"page": 1},
    ...                   headers={"Authorization": f"Bearer {server.token}"})
    """
    if bus is None:
        raise InvalidName("name the bus: serve(bus); mltrigger.serve() takes the default one")
    if host not in LOOPBACK and host not in ("::1",) and not hosts:
        raise InvalidName(
            f"host {host!r} is open to others: name the hosts by which they call,"
            " hosts=['api.example.org'], or --allow-host api.example.org"
        )
    limits = Limits(round(body_mb * 1024 * 1024), head_s, body_s, rate_per_s, streams)
    hooks = Hooks.of(webhooks or {}, webhook_origins)
    doors = Doors((*LOOPBACK, *hosts), tuple(origins))
    return Server(bus, host, port, doors, limits, hooks, cockpit)


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except (OSError, OverflowError) as error:
        bound.close()
        why = error.strerror if isinstance(error, OSError) else "a port is 0 to 65535"
        raise MltriggerError(
            f"cannot listen on {host} port {port}: {why or error}; port=0 takes a free one"
        ) from None
    return bound


def _most_silent() -> int:
    """Return how many silent connections the limit of open files leaves room for."""
    try:
        import resource

        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    except ImportError:  # Windows
        return _MOST_SILENT
    return max(16, min(_MOST_SILENT, files // 4)) if files > 0 else _MOST_SILENT
