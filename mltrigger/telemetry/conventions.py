"""The names of OpenTelemetry's conventions. A test compares them with the published package.

The package says itself that its names in development are to be copied, not imported.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

SYSTEM = "messaging.system"
OPERATION_NAME = "messaging.operation.name"
OPERATION_TYPE = "messaging.operation.type"
OLD_OPERATION = "messaging.operation"
"""The name before version 1.26. It is written beside the others for ``messaging/dup``."""
DESTINATION = "messaging.destination.name"
SUBSCRIPTION = "messaging.destination.subscription.name"
MESSAGE_ID = "messaging.message.id"
MESSAGES = "messaging.batch.message_count"
ERROR = "error.type"

SENT = "messaging.client.sent.messages"
CONSUMED = "messaging.client.consumed.messages"
OPERATION_DURATION = "messaging.client.operation.duration"
PROCESS_DURATION = "messaging.process.duration"

GEN_OPERATION = "gen_ai.operation.name"
GEN_PROVIDER = "gen_ai.provider.name"
GEN_REQUEST_MODEL = "gen_ai.request.model"
GEN_RESPONSE_MODEL = "gen_ai.response.model"
GEN_FINISH = "gen_ai.response.finish_reasons"
GEN_INPUT = "gen_ai.usage.input_tokens"
GEN_OUTPUT = "gen_ai.usage.output_tokens"
GEN_KIND = "gen_ai.token.type"
GEN_TOKENS = "gen_ai.client.token.usage"
GEN_DURATION = "gen_ai.client.operation.duration"

MODEL = "mltrigger.model"
VERSION = "mltrigger.model.version"
ROLE = "mltrigger.role"
ATTEMPT = "mltrigger.attempt"
REASON = "mltrigger.reason"
FAILED = "mltrigger.batch.failed"
LINKS_CUT = "mltrigger.links.cut"
"""The number of events without a link, on a span of more than :data:`MOST_LINKS`."""
WAIT = "mltrigger.delivery.wait"
BACKLOG = "mltrigger.backlog"
OLDEST = "mltrigger.oldest.age"
WAITING = "mltrigger.waiting"
DEAD_LETTERS = "mltrigger.dead_letters"
OPEN_DEAD_LETTERS = "mltrigger.dead_letters.open"

MOST_LINKS = 128
"""The most links of a span, as the SDK limits them."""
DURATIONS_S = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""The bounds of durations that the conventions advise."""
TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304)
OPT_IN = "OTEL_SEMCONV_STABILITY_OPT_IN"
_OLDER_TYPES = {"create": "publish", "send": "publish"}


def is_doubled(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the older names are wanted as well: ``OTEL_SEMCONV_STABILITY_OPT_IN=messaging/dup``.

    The current names are always written, as for ``messaging``: there were no older ones here.
    """
    return "messaging/dup" in [word.strip() for word in environ.get(OPT_IN, "").split(",")]


def operation(type_: str, name: str, doubled: bool) -> dict[str, str]:
    """Return the attributes of one operation."""
    own = {SYSTEM: "mltrigger", OPERATION_NAME: name, OPERATION_TYPE: type_}
    return {**own, OLD_OPERATION: _OLDER_TYPES.get(type_, type_)} if doubled else own
