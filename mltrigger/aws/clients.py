"""The one place that imports boto3: sessions, assumed roles, and lazily created clients."""

from __future__ import annotations

import functools
import threading
import urllib.parse
from typing import Any

from mltrigger._version import __version__
from mltrigger.aws.faults import AwsError, explained
from mltrigger.aws.lean import LeanSqs
from mltrigger.event.envelopes.partitions import is_aws_host
from mltrigger.versions.schemes.http.loopback import is_loopback_url

_ROLE_SESSION = "mltrigger"


class Clients:
    """The clients of one account and region, each created at its first use. Thread-safe.

    Parameters
    ----------
    session : boto3.Session
        The session with the credentials.
    region : str
        The region, for example ``eu-west-1``.
    endpoint_url : str, optional
        The address of an emulator. Without it ``AWS_ENDPOINT_URL``, ``AWS_ENDPOINT_URL_SQS`` and so
        on decide, which boto3 reads.
    """

    def __init__(self, session: Any, region: str, endpoint_url: str | None = None) -> None:
        self.region = region
        self._session, self._endpoint_url = session, endpoint_url
        self._guard = threading.Lock()
        self._made: dict[str, Any] = {}

    def _client(self, service: str) -> Any:
        with self._guard:  # clients are thread-safe, their creation is not
            if service not in self._made:
                try:
                    self._made[service] = self._new(service)
                except Exception as error:
                    raise explained(error, f"{service}:client", self.region) from error
            return self._made[service]

    def _new(self, service: str) -> Any:
        return make_client(self._session, service, self.region, self._endpoint_url)

    @property
    def sns(self) -> Any:
        """Amazon SNS."""
        return self._client("sns")

    @property
    def sqs(self) -> Any:
        """Amazon SQS."""
        return self._client("sqs")

    @functools.cached_property
    def lean_sqs(self) -> LeanSqs:
        """Amazon SQS, for the calls that are made for every ten events."""
        from botocore.httpsession import get_cert_path

        # as botocore finds it for a client
        trusted = self._session._session.get_config_variable("ca_bundle")
        return LeanSqs(self.sqs, self._keys, str(trusted or get_cert_path(True)))

    def _keys(self) -> tuple[str, str, str | None] | None:
        credentials = self._session.get_credentials()
        if credentials is None:
            return None
        keys = credentials.get_frozen_credentials()  # renewed when they are about to expire
        return keys.access_key, keys.secret_key, keys.token

    @property
    def s3(self) -> Any:
        """Amazon S3."""
        return self._client("s3")

    @property
    def sts(self) -> Any:
        """AWS STS."""
        return self._client("sts")

    @property
    def iam(self) -> Any:
        """AWS IAM."""
        return self._client("iam")

    @functools.cached_property
    def account(self) -> str:
        """The number of the account of these credentials."""
        return self._identity["Account"]

    @functools.cached_property
    def partition(self) -> str:
        """``aws``, ``aws-cn``, ``aws-us-gov`` and so on."""
        return self._identity["Arn"].split(":")[1]

    @functools.cached_property
    def endpoint(self) -> bool:
        """Whether these are clients of an emulator."""
        host = urllib.parse.urlsplit(self.sqs.meta.endpoint_url).hostname or ""
        return not (is_aws_host(host) or is_aws_host(host, _domains()))

    @functools.cached_property
    def _identity(self) -> dict[str, str]:
        try:
            identity: dict[str, str] = self.sts.get_caller_identity()
        except Exception as error:
            raise explained(error, "sts:GetCallerIdentity", self.region) from error
        return identity


class ModelClients(Clients):
    """The clients that call models.

    Each call is made once. The subscription decides about retries.

    Parameters
    ----------
    session, region, endpoint_url
        As for :class:`Clients`.
    read_timeout_s : float
        The longest time without an answer of the model, in seconds.
    connections : int
        The most concurrent calls.
    """

    _MODELS = frozenset({"lambda", "sagemaker-runtime"})

    def __init__(
        self,
        session: Any,
        region: str,
        endpoint_url: str | None,
        *,
        read_timeout_s: float,
        connections: int,
    ) -> None:
        super().__init__(session, region, endpoint_url)
        self._read_timeout_s, self._connections = read_timeout_s, connections

    @property
    def lambda_(self) -> Any:
        """AWS Lambda."""
        return self._client("lambda")

    @property
    def sagemaker(self) -> Any:
        """The runtime of Amazon SageMaker, which calls endpoints."""
        return self._client("sagemaker-runtime")

    def _new(self, service: str) -> Any:
        if service not in self._MODELS:
            return super()._new(service)
        given: dict[str, Any] = {
            "attempts": 1,
            "read_timeout_s": self._read_timeout_s,
            "connections": self._connections,
        }
        return make_client(self._session, service, self.region, self._endpoint_url, **given)


def _domains() -> list[str]:
    """Return the domains of all partitions of botocore, which may know more than we do."""
    from botocore.loaders import create_loader

    outputs = [
        partition["outputs"] for partition in create_loader().load_data("partitions")["partitions"]
    ]
    return [str(output[name]) for output in outputs for name in ("dnsSuffix", "dualStackDnsSuffix")]


def model_clients(
    region: str | None,
    *,
    profile: str | None = None,
    role_arn: str | None = None,
    external_id: str | None = None,
    endpoint_url: str | None = None,
    read_timeout_s: float = 60.0,
    connections: int = 10,
) -> ModelClients:
    """Return the clients to call models with, by boto3's own credential chain.

    Without a *region* it is the one that boto3 finds.

    Raises
    ------
    AwsError
        There is no such profile, or no region.
    """
    region = region or _usual_region(profile)
    session = open_session(
        region,
        profile=profile,
        role_arn=role_arn,
        external_id=external_id,
        endpoint_url=endpoint_url,
    )
    return ModelClients(
        session, region, endpoint_url, read_timeout_s=read_timeout_s, connections=connections
    )


def make_client(
    session: Any,
    service: str,
    region: str,
    endpoint_url: str | None,
    *,
    attempts: int = 4,
    read_timeout_s: float = 40.0,  # a long poll takes up to 20 s
    connections: int = 32,
) -> Any:
    """Return a client of *service* with our timeouts and retries."""
    from botocore.config import Config

    config = Config(
        # The "standard" mode retries with jitter, and gives up if everything fails.
        retries={"mode": "standard", "total_max_attempts": attempts},
        connect_timeout=5,
        read_timeout=read_timeout_s,
        max_pool_connections=connections,
        tcp_keepalive=True,
        user_agent_extra=f"mltrigger/{__version__}",
    )
    client = session.client(service, region_name=region, endpoint_url=endpoint_url, config=config)
    if not is_loopback_url(client.meta.endpoint_url) or client.meta.config.proxies is not None:
        return client
    # The environment may name the endpoint, so it is known only now. This machine needs no proxy.
    return session.client(
        service,
        region_name=region,
        endpoint_url=endpoint_url,
        config=config.merge(Config(proxies={})),
    )


def open_session(
    region: str,
    *,
    session: Any = None,
    profile: str | None = None,
    role_arn: str | None = None,
    external_id: str | None = None,
    endpoint_url: str | None = None,
) -> Any:
    """Return *session*, or a boto3 session with boto3's own credential chain.

    With *role_arn* the session assumes the role. Its credentials are renewed before they expire, by
    the next call.
    """
    import boto3

    try:
        found = (
            session
            if session is not None
            else boto3.Session(profile_name=profile, region_name=region)
        )
    except Exception as error:
        raise explained(error, "boto3:Session", profile or region) from error
    return (
        found if role_arn is None else _assumed(found, region, role_arn, external_id, endpoint_url)
    )


def _usual_region(profile: str | None) -> str:
    import boto3

    try:
        region = boto3.Session(profile_name=profile).region_name
    except Exception as error:
        raise explained(error, "boto3:Session", profile or "default") from error
    if region is None:
        raise AwsError(
            "no region: name one (eu-west-1), or set AWS_DEFAULT_REGION, or the region of the"
            " profile",
            "NoRegionError",
        )
    return str(region)


def emulator_session(region: str) -> Any:
    """Return a session with credentials of no account. AWS itself refuses them."""
    import boto3
    import botocore.session
    from botocore.config import Config

    inner: Any = botocore.session.Session()
    # an emulator is on this machine and needs no proxy
    inner.set_default_client_config(Config(proxies={}))
    return boto3.Session("testing", "testing", region_name=region, botocore_session=inner)


def _assumed(
    session: Any, region: str, role_arn: str, external_id: str | None, endpoint_url: str | None
) -> Any:
    import boto3
    import botocore.session
    from botocore.credentials import AssumeRoleCredentialFetcher, DeferredRefreshableCredentials

    # the fetcher names the service and the source's credentials
    def sts(_: str, **given: Any) -> Any:
        source = boto3.Session(
            given["aws_access_key_id"],
            given["aws_secret_access_key"],
            given["aws_session_token"],
            region,
        )
        return make_client(source, "sts", region, endpoint_url)

    extra = {
        "RoleSessionName": _ROLE_SESSION,
        **({"ExternalId": external_id} if external_id is not None else {}),
    }
    fetcher = AssumeRoleCredentialFetcher(
        sts, session.get_credentials(), role_arn, extra_args=extra
    )
    renewed: Any = botocore.session.Session()
    # As botocore's own provider for configured roles does. A role in code has no public way.
    renewed._credentials = DeferredRefreshableCredentials(
        method="assume-role", refresh_using=fetcher.fetch_credentials
    )
    return boto3.Session(botocore_session=renewed, region_name=region)
