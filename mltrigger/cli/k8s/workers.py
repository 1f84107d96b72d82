"""The workers that a manifest describes: their settings, checked."""

from __future__ import annotations

import dataclasses
import re
import urllib.parse

from mltrigger.errors import InvalidName, MltriggerError
from mltrigger.names import check_name
from mltrigger.text import redacted, short
from mltrigger.versions.selector import is_import_path

_LABEL = re.compile(r"[a-z]([a-z0-9-]{0,48}[a-z0-9])?", re.ASCII)
_SECRET = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", re.ASCII)
_KEY = re.compile(r"[A-Za-z0-9._-]{1,253}", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?", re.ASCII)
SCHEMA = "mltrigger_bus"
"""The schema of the tables on PostgreSQL, unless the URL names another."""
SHARED = ("postgresql", "aws")
"""The buses that several machines share."""
OURS = ("MLTRIGGER_URL", "MLTRIGGER_LOG", "PGPASSWORD", "HOME")
"""The variables that other options set."""
URL, PASSWORD, TOKEN = "url", "password", "token"
"""The keys of the Secret."""


@dataclasses.dataclass(frozen=True)
class Workers:
    """Settings of a Deployment of workers.

    Parameters
    ----------
    name, image, namespace : str
        Of the Deployment. Without a namespace it is that of ``kubectl``.
    url, log : str, optional
        Of the bus, and of its log. Without *url* both come from the Secret.
    secret : str, optional
        The Secret with passwords and tokens.
    subscriptions : sequence of str
        The only ones to take. Empty means all.
    executor : str, optional
        The place of the models, ``module:name``.
    environment, secret_environment : sequence of str
        ``NAME=VALUE``, and ``NAME=KEY`` for a key of the Secret.
    service_account : str, optional
        The identity of the workers at a cloud.
    replicas : int, optional
        ``None`` leaves the number to a scaler.
    drain_s : int
        How long running calls may go on at the end.
    """

    name: str
    image: str
    namespace: str | None = None
    url: str | None = None
    log: str | None = None
    secret: str | None = None
    subscriptions: tuple[str, ...] = ()
    executor: str | None = None
    environment: tuple[str, ...] = ()
    secret_environment: tuple[str, ...] = ()
    service_account: str | None = None
    replicas: int | None = 1
    drain_s: int = 25
    port: int = 8080
    cpu: str = "500m"
    memory: str = "512Mi"

    def __post_init__(self) -> None:
        for what, name in (
            ("--name", self.name),
            ("--namespace", self.namespace),
            ("--service-account", self.service_account),
        ):
            if name is not None and not _LABEL.fullmatch(name):
                raise InvalidName(
                    f"{what} {short(name)} must be 1 to 50 small letters, digits and '-', beginning"
                    " with a letter"
                )
        if self.secret is not None and not _SECRET.fullmatch(self.secret):
            raise InvalidName(f"--secret {short(self.secret)} is no name of a Secret")
        if not self.image or re.search(r"\s", self.image):
            raise InvalidName(f"--image {short(self.image)} is no image")
        for what, amount in (("--cpu", self.cpu), ("--memory", self.memory)):
            if not _QUANTITY.fullmatch(amount):
                raise InvalidName(f"{what} {short(amount)} is no quantity such as 500m or 512Mi")
        for subscription in self.subscriptions:
            check_name("subscription", subscription)
        if self.executor is not None and not is_import_path(self.executor):
            raise InvalidName(f"--executor {short(self.executor)} must be package.module:name")
        self._check_urls()
        self._check_variables()

    def _check_urls(self) -> None:
        if self.url is None and self.secret is None:
            raise MltriggerError(
                "name the bus with --url, or a Secret with its URL: --secret NAME, key 'url'"
            )
        for what, url in (("--url", self.url), ("--log", self.log)):
            if url is None:
                continue
            if redacted(url) != url:
                raise MltriggerError(
                    f"{what} has a password, and everybody who reads manifests would see it: leave"
                    " it out of the URL, and keep it as key 'password' of a Secret (--secret)"
                )
            scheme = url.partition("://")[0]
            if scheme not in SHARED:
                raise MltriggerError(
                    f"{what} {short(url)}: workers on many machines share postgresql://… or"
                    " aws://…, not a file or a memory"
                )
        if self.kind == "aws" and (self.log is None or self.log.startswith("aws:")):
            raise MltriggerError(
                "an aws:// bus needs a log that all workers share: --log postgresql://user@host/db"
            )

    def _check_variables(self) -> None:
        taken = set(OURS)
        for option, given in (
            ("--env", self.environment),
            ("--secret-env", self.secret_environment),
        ):
            for each in given:
                name, equals, _ = each.partition("=")
                if not equals or not _VARIABLE.fullmatch(name):
                    raise InvalidName(f"{option} {short(name)}: write NAME=VALUE or NAME=KEY")
                if name in taken:
                    raise MltriggerError(f"{option} {name} is set already")
                taken.add(name)
        for each in self.environment:
            if redacted(each) != each:
                raise MltriggerError(
                    f"--env {each.partition('=')[0]} looks like a secret, and everybody who reads"
                    " manifests would see it: take it from a Secret, with --secret-env"
                )
        if self.secret_environment and self.secret is None:
            raise MltriggerError("--secret-env takes keys of a Secret, so add --secret NAME")
        for each in self.secret_environment:
            if not _KEY.fullmatch(key := each.partition("=")[2]):
                raise InvalidName(f"--secret-env: {short(key)} cannot be a key of a Secret")

    @property
    def kind(self) -> str | None:
        """The scheme of the bus, ``None`` if its URL is in the Secret."""
        return self.url.partition("://")[0] if self.url is not None else None

    @property
    def database(self) -> str | None:
        """The URL of its database on PostgreSQL, if it is known."""
        return next((url for url in (self.url, self.log) if url and url[:4] == "post"), None)

    def variables(self) -> list[tuple[str, str | None, str | None]]:
        """Return (name, value, key of the Secret) of each variable. One of the last two is None."""
        found: list[tuple[str, str | None, str | None]] = []
        if self.url is None:
            found.append(("MLTRIGGER_URL", None, URL))
        else:
            found.append(("MLTRIGGER_URL", self.url, None))
        if self.log is not None:
            found.append(("MLTRIGGER_LOG", self.log, None))
        if self.database is not None and self.secret is not None:
            found.append(("PGPASSWORD", None, PASSWORD))
        for each in self.environment:
            name, _, value = each.partition("=")
            found.append((name, value, None))
        for each in self.secret_environment:
            name, _, key = each.partition("=")
            found.append((name, None, key))
        return found


def parts_of_database(url: str) -> dict[str, str]:
    """Return host, port, user, database, sslmode and schema of a URL of PostgreSQL.

    Raises
    ------
    MltriggerError
        If the URL leaves one to the defaults of libpq, which a scaler has not.
    """
    parts = urllib.parse.urlsplit(url)
    words = dict(urllib.parse.parse_qsl(parts.query))
    try:
        port = parts.port or int(words.get("port", "5432"))
    except ValueError:
        raise MltriggerError(
            f"{short(url)}: the scaler takes one host and one port, postgresql://user@host:5432/db"
        ) from None
    found = {
        "host": parts.hostname or words.get("host", ""),
        "port": str(port),
        "userName": urllib.parse.unquote(parts.username or words.get("user", "")),
        "dbName": urllib.parse.unquote(parts.path.strip("/")) or words.get("dbname", ""),
        "sslmode": words.get("sslmode", "prefer"),
    }
    if missing := [name for name, value in found.items() if not value]:
        raise MltriggerError(
            f"{short(url)} leaves {', '.join(missing)} to libpq, which the scaler has not: write"
            " postgresql://user@host:5432/db"
        )
    return {**found, "schema": words.get("schema", SCHEMA)}
