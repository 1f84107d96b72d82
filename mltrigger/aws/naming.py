"""Names on AWS: ARNs, queue URLs, S3 sources, and our own topics and queues.

Nothing here calls AWS.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
from typing import Literal, NamedTuple

from mltrigger.aws import limits
from mltrigger.errors import InvalidName
from mltrigger.event.envelopes.partitions import DOMAINS, domain_of, partition_of
from mltrigger.text import short

Kind = Literal["s3", "sqs", "sns"]

FIFO = ".fifo"
DEAD = "dead"
"""The ending of the name of a dead-letter queue."""
MAX_TOPIC = limits.TOPIC_NAME.high
MAX_QUEUE = limits.QUEUE_NAME.high
MAX_KEY_BYTES = limits.OBJECT_KEY.high
"""Bytes of an object key in UTF-8. A value of a filter rule has at most as many characters."""
MAX_SOURCE_NAME = 80

_ARN = re.compile(
    r"arn:(aws[a-z0-9-]*):([a-z0-9-]+):([a-z0-9-]*):(\d{12}|):(.+)", re.ASCII | re.DOTALL
)
_REGION = re.compile(r"[a-z]{2,}(-[a-z]+)+-\d+", re.ASCII)
_URL = re.compile(r"(https?)://([^/?#@\s]+)(/[^?#\s]*)?/(\d{12})/([^/?#\s]+)", re.ASCII)
_DOMAIN = "|".join(map(re.escape, DOMAINS))
_AWS_HOST = re.compile(
    rf"(?:sqs(?:-fips)?\.(?P<region>[a-z0-9-]+)\.(?:{_DOMAIN})|(?P<legacy>[a-z0-9-]+)\.queue\.(?:{_DOMAIN})|queue\.amazonaws\.com)",
    re.ASCII,
)


class Arn(NamedTuple):
    """An Amazon Resource Name in its parts. ``str()`` joins them again.

    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference-arns.html
    """

    partition: str
    service: str
    region: str
    account: str
    resource: str

    @classmethod
    def parse(cls, text: str) -> Arn:
        """Return the parts of *text*.

        Raises
        ------
        InvalidName
            It is no ARN, or its queue or topic cannot have that name.
        """
        found = _ARN.fullmatch(text) if isinstance(text, str) else None
        if found is None:
            raise InvalidName(
                f"{short(text)} is no ARN: arn:partition:service:region:account:resource, for"
                f" example {_EXAMPLE}"
            )
        arn = cls(*found.groups())
        if arn.service in ("sqs", "sns"):
            if not arn.region or not arn.account:
                raise InvalidName(
                    f"ARN {short(text)} names no {'account' if arn.region else 'region'}; for"
                    f" example {_EXAMPLE}"
                )
            check_aws_name("queue" if arn.service == "sqs" else "topic", arn.resource)
        return arn

    def __str__(self) -> str:
        return f"arn:{self.partition}:{self.service}:{self.region}:{self.account}:{self.resource}"

    @property
    def fifo(self) -> bool:
        """Whether a queue or topic of this name is FIFO."""
        return self.resource.endswith(FIFO)


_EXAMPLE = "arn:aws:sqs:eu-west-1:123456789012:orders"


def check_aws_name(kind: Literal["queue", "topic"], name: str) -> str:
    """Return *name*, or raise InvalidName.

    It may have letters, digits, ``-`` and ``_``, and ``.fifo`` at the end: 80 characters for a
    queue, 256 for a topic.
    """
    return limits.check_queue_name(name) if kind == "queue" else limits.check_topic_name(name)


# -- our own topics and queues ---------------------------------------------------------------------


def topic_name(prefix: str, topic: str) -> str:
    """Return the name of the SNS topic for *topic* of the bus *prefix*.

    It is FIFO if *topic* ends in ``.fifo``.
    """
    return _named("topic", (prefix, topic), MAX_TOPIC)


def queue_name(prefix: str, topic: str, subscription: str) -> str:
    """Return the name of the SQS queue of *subscription*. It is FIFO if *topic* is."""
    return _named("queue", (prefix, topic, subscription), MAX_QUEUE)


def dead_name(prefix: str, topic: str, subscription: str) -> str:
    """Return the name of the dead-letter queue of *subscription*.

    It is FIFO if *topic* is, as SQS demands.
    """
    return _named("queue", (prefix, topic, subscription, DEAD), MAX_QUEUE)


def check_prefix(prefix: str) -> str:
    """Return *prefix*, or raise InvalidName.

    It begins every name of a bus and has to leave room for the rest.
    """
    if not isinstance(prefix, str) or not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", prefix):
        raise InvalidName(
            f"prefix {short(prefix)} must be 1 to 40 letters, digits, '-' or '_': it begins the"
            " names of topics and queues"
        )
    return prefix


def shortened(name: str, limit: int, seed: str | None = None) -> str:
    """Return *name*, shortened if it is longer than *limit*.

    A short name is the beginning and a hash of *seed*, so that different names stay different.
    """
    if len(name) <= limit:
        return name
    digest = hashlib.sha256((name if seed is None else seed).encode()).hexdigest()[:12]
    return f"{name[: limit - 13].rstrip('-_')}-{digest}"


def _named(kind: Literal["queue", "topic"], parts: tuple[str, ...], limit: int) -> str:
    topic = parts[1]
    suffix = FIFO if topic.endswith(FIFO) else ""
    plain = [part.removesuffix(FIFO) if part is topic else part for part in parts]
    if not all(plain):
        raise InvalidName(
            f"{kind} name made of {short(parts)} needs a prefix, a topic and, for a queue, a"
            " subscription"
        )
    ending = f"-{DEAD}" if len(parts) == 4 else ""
    # Both queues of a subscription have the same hash: a person sees that they belong together.
    whole = "-".join(plain[:3])
    name = shortened(
        whole,
        limit - len(suffix) - (len(f"-{DEAD}") if len(parts) > 2 else 0),
        json.dumps(plain[:3]),
    )
    return check_aws_name(kind, name + ending + suffix)


# -- sources ---------------------------------------------------------------------------------------


def aws_kind(source: str) -> Kind | None:
    """Return the service of *source*, ``None`` for a topic's name or another URL.

    Sources on AWS are ``s3://…``, ARNs of queues and topics, and URLs of queues. The URL of an
    emulator's queue has a port and ends in an account and a name. The rest of the text is not
    checked here.
    """
    if not isinstance(source, str):
        return None
    if source.startswith("s3://"):
        return "s3"
    if service := re.match(r"arn:aws[a-z0-9-]*:(sqs|sns):", source):
        return "sqs" if service[1] == "sqs" else "sns"
    found = _URL.fullmatch(source)
    if found and (_AWS_HOST.fullmatch(found[2]) or re.fullmatch(r".+:\d{1,5}", found[2])):
        return "sqs"
    return None


def queue_arn(source: str, region: str) -> Arn:
    """Return the ARN of the queue *source*, an ARN or URL.

    *region* is used if the URL has none.
    """
    if source.startswith("arn:"):
        arn = Arn.parse(source)
        if arn.service != "sqs":
            raise InvalidName(
                f"{short(source)} is the ARN of something in {arn.service}, not of a queue; for"
                f" example {_EXAMPLE}"
            )
        return arn
    found = _URL.fullmatch(source)
    if found is None:
        raise InvalidName(
            f"queue URL {short(source)} must be https://sqs.region.amazonaws.com/account/name,"
            " account with 12 digits"
        )
    host = _AWS_HOST.fullmatch(found[2])
    if host:  # the oldest form names no region: it is that of the first one
        region = host["region"] or host["legacy"] or "us-east-1"
    elif named := re.match(r"sqs\.([a-z0-9-]+)\.", found[2]) or re.fullmatch(
        r"/queue/([a-z0-9-]+)", found[3] or ""
    ):
        region = named[1] if _REGION.fullmatch(named[1]) else region
    return Arn(partition_of(region), "sqs", region, found[4], check_aws_name("queue", found[5]))


def queue_url(arn: Arn) -> str:
    """Return the URL of a queue on AWS. An emulator has to be asked for its own."""
    return f"https://sqs.{arn.region}.{domain_of(arn.partition)}/{arn.account}/{arn.resource}"


def source_url(source: str, region: str) -> str:
    """Return the canonical form of *source* for the registry: an S3 URL or an ARN."""
    kind = aws_kind(source)
    if kind == "s3":
        return S3Source.parse(source).url
    return str(queue_arn(source, region) if kind == "sqs" else Arn.parse(source))


def source_topic_name(source: str, region: str) -> str:
    """Return the name of the bus's topic for *source*.

    It has a readable part and a hash, so that no two sources share one.
    """
    if aws_kind(source) == "s3":
        return S3Source.parse(source).topic_name
    arn = Arn.parse(source_url(source, region))
    return _slug(arn.resource.removesuffix(FIFO), str(arn))


def _slug(text: str, seed: str) -> str:
    plain = re.sub(r"([^A-Za-z0-9_]|-)+", "-", text).strip("-_")[: MAX_SOURCE_NAME - 9].strip("-_")
    return f"{plain}-{hashlib.sha256(seed.encode()).hexdigest()[:8]}"


class S3Source(NamedTuple):
    """The objects of a bucket whose keys match a pattern: ``s3://bucket/prefix/*.png``.

    ``*`` stands for any characters, ``/`` included, as in the prefix and suffix of S3. So
    ``scans/*.png`` means the whole tree below ``scans/``. ``?`` stands for one character, ``[ab]``
    and ``[!ab]`` for one of several, as in :mod:`fnmatch`. ``[*]`` is a star. Case counts. The key
    is not percent-encoded, as in the AWS command line. No pattern, or a ``/`` at the end, means
    everything below.

    Attributes
    ----------
    bucket, pattern : str
    prefix, suffix : str
        The ends of the pattern by which S3 itself can filter, possibly empty. Every matching key
        passes them.
    """

    bucket: str
    pattern: str
    prefix: str
    suffix: str

    @classmethod
    def parse(cls, url: str) -> S3Source:
        """Return the source *url*. Raise InvalidName with the mistake."""
        if not isinstance(url, str) or not url.startswith("s3://"):
            raise InvalidName(
                f"source {short(url)} must be s3://bucket/pattern, for example"
                " s3://scans/incoming/*.png"
            )
        bucket, _, pattern = url[len("s3://") :].partition("/")
        limits.check_bucket_name(bucket)
        pattern = pattern + "*" if not pattern or pattern.endswith("/") else pattern
        try:
            size = len(pattern.encode())
        except UnicodeEncodeError:
            raise InvalidName(
                "the pattern of an s3:// source has half of a surrogate pair, which no key can have"
            ) from None
        if size > MAX_KEY_BYTES:
            raise InvalidName(
                f"pattern {short(pattern)} has {size} bytes; the key of an object has at most"
                f" {MAX_KEY_BYTES}"
            )
        head, tail = _ends(pattern)
        return cls(bucket, pattern, _plain_head(head), _plain_tail(tail))

    @property
    def url(self) -> str:
        """The canonical URL for the registry, the same for sources with the same pattern."""
        return f"s3://{self.bucket}/{self.pattern}"

    @property
    def topic_name(self) -> str:
        """The name for the topic of this source: bucket, prefix, suffix, and a hash of the URL."""
        return _slug(f"{self.bucket}-{self.prefix}-{self.suffix}", self.url)

    def matches(self, key: str) -> bool:
        """Return whether the object *key* belongs to the source.

        *key* is decoded, as in ``event.data["key"]``.
        """
        return fnmatch.fnmatchcase(key, self.pattern)


def _ends(pattern: str) -> tuple[str, str]:
    """Return the text before the first and after the last wildcard of *pattern*.

    Without a wildcard, return all and nothing.
    """
    first, last, at = None, 0, 0
    while at < len(pattern):
        end = (
            at + 1 if pattern[at] in "*?" else _class_end(pattern, at) if pattern[at] == "[" else 0
        )
        if end:
            first, last = at if first is None else first, end
        at = end or at + 1
    return (pattern, "") if first is None else (pattern[:first], pattern[last:])


def _class_end(pattern: str, at: int) -> int:
    """Return the end of the ``[…]`` that begins at *at*, 0 if it is none.

    It is read as by :func:`fnmatch.translate`.
    """
    inner = at + 1
    inner += pattern.startswith("!", inner)
    inner += pattern.startswith("]", inner)
    return pattern.find("]", inner) + 1


# "If your prefix or suffix contains a space, you must replace it with the + character"; other
# special characters are to be percent-encoded
# (https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-how-to-filtering.html).
# Emulators compare the text. We leave such characters and the rest behind them to `matches`: it
# drops the surplus announcements of S3, and nothing is lost.
_HEAD = re.compile(r"[A-Za-z0-9/!_.'()-]*", re.ASCII)
_TAIL = re.compile(r"[A-Za-z0-9/!_.'()-]*\Z", re.ASCII)


def _plain_head(text: str) -> str:
    found = _HEAD.match(text)
    return found[0] if found else ""


def _plain_tail(text: str) -> str:
    found = _TAIL.search(text)
    return found[0] if found else ""
