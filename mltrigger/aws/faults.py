"""Errors of AWS in words: the call, the reason, and the next step.

Error codes identify errors. Nothing here imports botocore.
"""

from __future__ import annotations

from mltrigger.errors import StoreError
from mltrigger.text import redacted

THROTTLED = frozenset(
    {
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "RequestThrottled",
        "RequestThrottledException",
        "TooManyRequestsException",
        "RequestLimitExceeded",
        "SlowDown",
        "KMSThrottling",
        "KmsThrottled",
        "OverLimit",
    }
)
"""Codes that ask to come later. They count as no failure."""
DENIED = frozenset(
    {
        "AccessDenied",
        "AccessDeniedException",
        "AuthorizationError",
        "AuthorizationErrorException",
        "UnauthorizedOperation",
        "KmsAccessDenied",
        "KMSAccessDenied",
        "KMSAccessDeniedException",
        "403",
    }
)
EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "RequestExpired"})
UNKNOWN_KEY = frozenset(
    {
        "InvalidClientTokenId",
        "UnrecognizedClientException",
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "InvalidSecurity",
    }
)
MISSING = frozenset(
    {
        "AWS.SimpleQueueService.NonExistentQueue",
        "QueueDoesNotExist",
        "NotFound",
        "NotFoundException",
        "NoSuchBucket",
        "NoSuchKey",
        "404",
    }
)
STALE_HANDLE = frozenset(
    {
        "ReceiptHandleIsInvalid",
        "AWS.SimpleQueueService.MessageNotInflight",
        "MessageNotInflight",
        "InvalidParameterValue",
        "NotInflight",
    }
)
"""Codes for a lost lease. The message comes again and is then recognised."""


class AwsError(StoreError):
    """A failed call of AWS: the call, the reason, and the next step.

    Attributes
    ----------
    code : str
        The error code of the service. If no service answered, the name of the exception.
    """

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


def code_of(error: BaseException) -> str:
    """Return the code of a service's error, or the class of one without an answer."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        return str(response.get("Error", {}).get("Code", ""))
    return getattr(error, "code", "") if isinstance(error, AwsError) else type(error).__name__


def explained(error: Exception, action: str, about: str) -> AwsError:
    """Return the error to raise for *error* of *action* (such as ``sqs:ReceiveMessage``).

    *about* is the name of a queue, topic or bucket.
    """
    if isinstance(error, AwsError):
        return error
    code = code_of(error)
    response = getattr(error, "response", None)
    said = (
        str(response.get("Error", {}).get("Message", ""))
        if isinstance(response, dict)
        else str(error)
    )
    return AwsError(
        f"{action} on {about!r} failed with {code}:"
        f" {_advice(code, action) or redacted(said)[:300]}",
        code,
    )


def _advice(code: str, action: str) -> str:
    if code in DENIED:
        return f"allow {action}; `mltrigger aws policies` prints the whole policy of each role"
    if code in EXPIRED:
        return (
            "the credentials have expired: renew them (aws sso login), then call again; what is"
            " leased comes again by itself"
        )
    if code in UNKNOWN_KEY or code in (
        "NoCredentialsError",
        "PartialCredentialsError",
        "CredentialRetrievalError",
        "ProfileNotFound",
    ):
        return (
            "there are no valid credentials: set a profile, environment variables or a role that"
            " boto3 finds, or pass profile= or session="
        )
    if code in THROTTLED:
        return "AWS throttles this account; it is tried again by itself"
    if code in (
        "EndpointConnectionError",
        "ConnectTimeoutError",
        "ReadTimeoutError",
        "ConnectionClosedError",
        "ConnectionError",
    ):
        return "the service did not answer: is the network there, and the region or endpoint right?"
    return ""
