"""A template as a stack of CloudFormation: made, or brought to what the template says.

It may be repeated.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from mltrigger.aws.admin.plan import call
from mltrigger.aws.faults import AwsError
from mltrigger.errors import InvalidName, MltriggerError, NameTaken

MAX_BODY_BYTES = 51_200
MAX_TEMPLATE_BYTES = 1_048_576
"""Of a template in the call, and of one in a bucket.
https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/cloudformation-limits.html"""
TIMEOUT_S = 900.0
_LOOK_S = 3.0
_CAPABILITIES = ["CAPABILITY_IAM"]
_DONE = frozenset({"CREATE_COMPLETE", "UPDATE_COMPLETE"})
_READY = _DONE | {"UPDATE_ROLLBACK_COMPLETE", "IMPORT_COMPLETE", "IMPORT_ROLLBACK_COMPLETE"}
_NEVER_MADE = frozenset(
    {"ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED", "DELETE_FAILED", "REVIEW_IN_PROGRESS"}
)
_NAMES = ("TopicName", "SubscriptionName")
"""Parameters that a queue or topic is called by: another value replaces it by an empty one."""
_HOLDING = frozenset({"AWS::SQS::Queue", "AWS::S3::Bucket", "AWS::SNS::Topic"})


class Stack(NamedTuple):
    """What :func:`apply` did.

    ``action`` is ``created``, ``updated`` or ``unchanged``; ``outputs`` are the values of the
    stack's outputs by name.
    """

    name: str
    id: str
    action: str
    outputs: dict[str, str]


def apply(
    clients: Any,
    stack: str,
    document: Mapping[str, Any],
    *,
    parameters: Mapping[str, str | int] | None = None,
    bucket: str | None = None,
    replace: bool = False,
    timeout_s: float = TIMEOUT_S,
    say: Callable[[str], None] = lambda line: None,
    pause: Callable[[float], None] = time.sleep,
) -> Stack:
    """Make the stack *stack* of a template, or update it, wait until that is done, and return its
    outputs; idempotent.

    When making it fails, nothing of it is left; when an update fails, the stack is what it was.
    Either raises, with CloudFormation's first reasons. It takes the rights of the administrator,
    those of CloudFormation, and ``iam:CreateRole``, ``GetRole``, ``TagRole``, ``PutRolePolicy``,
    ``DeleteRole`` and ``DeleteRolePolicy``.

    Parameters
    ----------
    clients : Clients
        Of the account and region where it shall be.
    stack : str
        Its name.
    document : mapping
        What :func:`mltrigger.aws.admin.template.template` returns.
    parameters : mapping, optional
        Values of the template's parameters; what is not named has the template's default, at an
        update too.
    bucket : str, optional
        Where a template above 51,200 bytes is put for CloudFormation to read it.
    replace : bool
        Let an update delete queues, topics and buckets that the template has no more, with what is
        in them. Otherwise it is refused.
    timeout_s : float
        How long to wait.
    say : callable, optional
        Called with what happens.

    Raises
    ------
    NameTaken
        A stack of this name is not of this bus.
    MltriggerError
        The update would delete queues or topics; a parameter is not the template's; the template is
        too large.
    AwsError
        CloudFormation refuses, fails, or takes longer.
    """
    return _Apply(clients, stack, document, parameters or {}, bucket, timeout_s, say, pause).run(
        replace
    )


class _Apply:
    """One call of :func:`apply`."""

    def __init__(
        self,
        clients: Any,
        stack: str,
        document: Mapping[str, Any],
        parameters: Mapping[str, str | int],
        bucket: str | None,
        timeout_s: float,
        say: Callable[[str], None],
        pause: Callable[[float], None],
    ) -> None:
        known = document["Parameters"]
        if wrong := sorted(set(parameters) - set(known)):
            raise InvalidName(
                f"the template has no parameter {wrong[0]!r}; it has {', '.join(known)}"
            )
        self._clients, self._stack, self._document, self._bucket = clients, stack, document, bucket
        self._timeout_s, self._say, self._pause = timeout_s, say, pause
        self._values = {
            name: str(parameters.get(name, parameter["Default"]))
            for name, parameter in known.items()
        }

    def run(self, replace: bool) -> Stack:
        found = self._find(self._stack)
        if (
            found is not None
            and found["StackStatus"].endswith("_IN_PROGRESS")
            and found["StackStatus"] != "REVIEW_IN_PROGRESS"
        ):
            self._say(
                f"stack {self._stack!r} is {found['StackStatus']}: waiting for whoever is at it"
            )
            found = self._wait(found["StackId"])
            found = None if found["StackStatus"] == "DELETE_COMPLETE" else found
        if found is None:
            return self._create()
        self._check(found, replace)
        return self._update(found)

    # -- what is there -----------------------------------------------------------------------------

    def _find(self, name: str) -> dict[str, Any] | None:
        try:
            (found,) = self._call("describe_stacks", StackName=name)["Stacks"]
        except AwsError as error:
            if error.code != "ValidationError" or "does not exist" not in str(error):
                raise
            return None
        return None if found["StackStatus"] == "DELETE_COMPLETE" and name == self._stack else found

    def _check(self, found: Mapping[str, Any], replace: bool) -> None:
        """Raise when this stack must not be updated: it is somebody else's, it never worked, or
        queues would go with it.
        """
        status, url = found["StackStatus"], f"aws://{self._clients.region}/{self._values['Prefix']}"
        if status in _NEVER_MADE:
            raise AwsError(
                f"stack {self._stack!r} is {status} and cannot be updated: delete it (aws"
                f" cloudformation delete-stack --stack-name {self._stack}), then call again",
                status,
            )
        if status not in _READY:
            raise AwsError(
                f"stack {self._stack!r} is {status}: repair it in CloudFormation first", status
            )
        bus = _outputs(found).get("BusURL")
        if bus != url:
            whose = f"is of the bus {bus!r}" if bus else "was not made of a template of mltrigger"
            raise NameTaken(
                f"stack {self._stack!r} {whose}; this template is of {url!r}: choose another name"
                " for the stack"
            )
        if not replace and (gone := self._gone(found)):
            raise MltriggerError(
                f"updating stack {self._stack!r} would delete {', '.join(gone)}, with what is in"
                " them: drain them first, then say replace=True (--replace)"
            )

    def _gone(self, found: Mapping[str, Any]) -> list[str]:
        """Return the queues, topics and buckets that the stack has and that it would lose."""
        before = {
            each["ParameterKey"]: each.get("ParameterValue", "")
            for each in found.get("Parameters", ())
        }
        renamed = [
            name
            for name in _NAMES
            if name in before and name in self._values and before[name] != self._values[name]
        ]
        if renamed:
            return [f"the topic and the queues of {before[name]!r}" for name in renamed]
        body = self._call("get_template", StackName=self._stack, TemplateStage="Original")[
            "TemplateBody"
        ]
        try:
            old = json.loads(body) if isinstance(body, str) else body
        except ValueError:
            return ["queues or topics, perhaps: its template is not JSON and cannot be compared"]
        return sorted(
            name
            for name, resource in old["Resources"].items()
            if name not in self._document["Resources"]
            and resource["Type"] in _HOLDING
            and resource.get("DeletionPolicy") != "Retain"
        )

    # -- what is done ------------------------------------------------------------------------------

    def _create(self) -> Stack:
        self._say(f"creating stack {self._stack!r} in {self._clients.region}")
        # A dead-letter queue outlives its stack; one that a failed creation has made must not, or
        # the next try finds its name taken.
        made = self._call(
            "create_stack", **self._given(), OnFailure="ROLLBACK", RetainExceptOnCreate=True
        )["StackId"]
        return self._finish(made, "created")

    def _update(self, found: Mapping[str, Any]) -> Stack:
        try:
            self._call("update_stack", **self._given(), RetainExceptOnCreate=True)
        except AwsError as error:
            if error.code == "ValidationError" and "No updates are to be performed" in str(error):
                return Stack(self._stack, found["StackId"], "unchanged", _outputs(found))
            raise
        self._say(f"updating stack {self._stack!r} in {self._clients.region}")
        return self._finish(found["StackId"], "updated")

    def _finish(self, stack_id: str, action: str) -> Stack:
        found = self._wait(stack_id)
        if found["StackStatus"] not in _DONE:
            reasons = "; ".join(self._reasons(stack_id)) or found.get(
                "StackStatusReason", "CloudFormation gives no reason"
            )
            status = found["StackStatus"]
            # it is empty, and could never be updated
            if status == "ROLLBACK_COMPLETE" and action == "created":
                self._call("delete_stack", StackName=stack_id)
                status = self._wait(stack_id)["StackStatus"]
            left = {
                "DELETE_COMPLETE": "nothing of it is left",
                "UPDATE_ROLLBACK_COMPLETE": "it is what it was before",
            }
            raise AwsError(
                f"stack {self._stack!r} could not be {action},"
                f" {left.get(status, f'it is {status} now')}: {reasons}",
                found["StackStatus"],
            )
        return Stack(self._stack, stack_id, action, _outputs(found))

    def _wait(self, stack_id: str) -> dict[str, Any]:
        """Return the stack when nothing happens to it any more."""
        waited_s, status = 0.0, ""
        while True:
            found = self._find(stack_id) or {"StackStatus": "DELETE_COMPLETE", "StackId": stack_id}
            if found["StackStatus"] != status:
                status = found["StackStatus"]
                self._say(f"stack {self._stack!r} is {status}")
            if not status.endswith("_IN_PROGRESS"):
                return found
            if waited_s >= self._timeout_s:
                raise AwsError(
                    f"stack {self._stack!r} is still {status} after {waited_s:,.0f} s; calling"
                    " again waits for it",
                    status,
                )
            self._pause(_LOOK_S)
            waited_s += _LOOK_S

    def _reasons(self, stack_id: str) -> list[str]:
        """Return why resources of the last operation failed, the first failure first; those that
        were cancelled because of it not.
        """
        found: list[str] = []
        # the newest first
        for event in self._call("describe_stack_events", StackName=stack_id)["StackEvents"]:
            reason, status = (
                str(event.get("ResourceStatusReason", "")),
                event.get("ResourceStatus", ""),
            )
            if status.endswith("_FAILED") and "cancelled" not in reason:
                found.append(f"{event['LogicalResourceId']} ({event['ResourceType']}): {reason}")
            if reason == "User Initiated":
                break
        return found[::-1][:5]

    def _given(self) -> dict[str, Any]:
        parameters = [
            {"ParameterKey": name, "ParameterValue": value} for name, value in self._values.items()
        ]
        return {
            "StackName": self._stack,
            "Parameters": parameters,
            "Capabilities": _CAPABILITIES,
            **self._body(),
        }

    def _body(self) -> dict[str, str]:
        text = json.dumps(self._document, separators=(",", ":"))
        if len(text.encode()) <= MAX_BODY_BYTES:
            return {"TemplateBody": text}
        size = (
            f"the template has {len(text.encode()):,} bytes; CloudFormation takes"
            f" {MAX_BODY_BYTES:,} in a call"
        )
        if len(text.encode()) > MAX_TEMPLATE_BYTES:
            raise MltriggerError(
                f"{size} and {MAX_TEMPLATE_BYTES:,} from a bucket: make a stack for some of the"
                " topics each"
            )
        if self._bucket is None:
            raise MltriggerError(f"{size}: name a bucket to read it from (bucket=, --bucket)")
        key = f"mltrigger-templates/{self._stack}.json"
        call(
            self._clients.s3,
            "put_object",
            self._bucket,
            Bucket=self._bucket,
            Key=key,
            Body=text.encode(),
            ContentType="application/json",
        )
        address = self._clients.s3.generate_presigned_url(
            "get_object", Params={"Bucket": self._bucket, "Key": key}
        ).partition("?")[0]
        return {"TemplateURL": address}

    def _call(self, operation: str, **given: Any) -> dict[str, Any]:
        answer: dict[str, Any] = call(self._clients.cloudformation, operation, self._stack, **given)
        return answer


def _outputs(found: Mapping[str, Any]) -> dict[str, str]:
    return {each["OutputKey"]: each["OutputValue"] for each in found.get("Outputs", ())}
