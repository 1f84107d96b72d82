"""A template as a stack: made and updated on the emulator's CloudFormation; what only AWS does is
answered as its API documents it.

The emulator knows neither failures nor an update that changes nothing. The answers here are
botocore's stubs: they are checked against the service model, and so is what is asked.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber
from emulators import REGION, Emulator

import mltrigger as mt
from mltrigger.aws.admin.stack import MAX_BODY_BYTES, Stack, apply
from mltrigger.aws.admin.template import template
from mltrigger.aws.faults import AwsError
from mltrigger.cli import main
from mltrigger.errors import InvalidName, MltriggerError, NameTaken

ID = f"arn:aws:cloudformation:{REGION}:123456789012:stack/acme/1"
URL = f"aws://{REGION}/acme"
DOCUMENT = template("acme", {"documents": ["reader"]})
GONE = ("describe_stacks", "ValidationError", "Stack with id acme does not exist")


class CloudFormation:
    """A client that is answered from a script, in its order."""

    def __init__(self, client: Any, stubber: Stubber) -> None:
        self.cloudformation, self.region, self._stubber = client, REGION, stubber
        self.said: list[str] = []
        self.waited_s = 0.0

    def answers(self, *script: tuple[str, Any] | tuple[str, str, str]) -> None:
        """Answer the next calls: an operation with what it answers, or with the code and message of
        its error.
        """
        for operation, answer, *message in script:
            if message:
                self._stubber.add_client_error(operation, answer, message[0], 400)
            else:
                self._stubber.add_response(operation, answer)

    def apply(self, document: Any = DOCUMENT, **options: Any) -> Stack:
        return apply(self, "acme", document, say=self.said.append, pause=self._pause, **options)

    def _pause(self, seconds: float) -> None:
        self.waited_s += seconds


@pytest.fixture(scope="module")
def client() -> Any:
    return boto3.Session("testing", "testing", region_name=REGION).client("cloudformation")


@pytest.fixture
def aws(client: Any) -> Iterator[CloudFormation]:
    with Stubber(client) as stubber:
        yield CloudFormation(client, stubber)
        stubber.assert_no_pending_responses()


def stack(status: str, url: str | None = URL, **parameters: str) -> tuple[str, Any]:
    outputs = [{"OutputKey": "BusURL", "OutputValue": url}] if url else []
    given = [{"ParameterKey": name, "ParameterValue": value} for name, value in parameters.items()]
    found = {
        "StackName": "acme",
        "StackId": ID,
        "StackStatus": status,
        "CreationTime": 0,
        "Outputs": outputs,
        "Parameters": given,
    }
    return "describe_stacks", {"Stacks": [found]}


def events(*reasons: tuple[str, str, str]) -> tuple[str, Any]:
    """Return the events of a stack, the newest first: status, logical id, reason."""
    return "describe_stack_events", {
        "StackEvents": [
            {
                "StackId": ID,
                "EventId": str(n),
                "StackName": "acme",
                "Timestamp": 0,
                "ResourceStatus": status,
                "LogicalResourceId": name,
                "ResourceType": "AWS::SQS::Queue",
                "ResourceStatusReason": reason,
            }
            for n, (status, name, reason) in enumerate(reasons)
        ]
    }


MADE = ("create_stack", {"StackId": ID})
UPDATED = ("update_stack", {"StackId": ID})


def deployed(document: Any = DOCUMENT) -> tuple[str, Any]:
    # a new one each time: botocore parses it in place
    return "get_template", {"TemplateBody": json.dumps(document)}


def test_a_stack_that_is_not_there_is_made_and_waited_for(aws: CloudFormation) -> None:
    aws.answers(
        GONE,
        MADE,
        stack("CREATE_IN_PROGRESS"),
        stack("CREATE_IN_PROGRESS"),
        stack("CREATE_COMPLETE"),
    )

    made = aws.apply()

    assert made == Stack("acme", ID, "created", {"BusURL": URL})
    assert aws.waited_s > 0
    assert aws.said[-1] == "stack 'acme' is CREATE_COMPLETE"


def test_what_is_asked_for_is_the_template_with_its_parameters(aws: CloudFormation) -> None:
    asked: dict[str, Any] = {}
    aws.cloudformation.meta.events.register(
        "before-parameter-build.*.CreateStack", lambda params, **_: asked.update(params)
    )
    aws.answers(GONE, MADE, stack("CREATE_COMPLETE"))

    aws.apply(parameters={"LeaseSeconds": 600})

    assert json.loads(asked["TemplateBody"]) == DOCUMENT
    values = {each["ParameterKey"]: each["ParameterValue"] for each in asked["Parameters"]}
    assert values == {
        name: str(each["Default"]) for name, each in DOCUMENT["Parameters"].items()
    } | {"LeaseSeconds": "600"}
    assert asked["Capabilities"] == ["CAPABILITY_IAM"]
    assert asked["RetainExceptOnCreate"] is True


def test_an_update_that_changes_nothing_is_no_error(aws: CloudFormation) -> None:
    aws.answers(
        stack("CREATE_COMPLETE"),
        deployed(),
        ("update_stack", "ValidationError", "No updates are to be performed."),
    )

    assert aws.apply().action == "unchanged"


def test_a_stack_that_is_there_is_updated(aws: CloudFormation) -> None:
    aws.answers(
        stack("UPDATE_ROLLBACK_COMPLETE"),
        deployed(),
        UPDATED,
        stack("UPDATE_IN_PROGRESS"),
        stack("UPDATE_COMPLETE"),
    )

    assert aws.apply(template("acme", {"documents": ["reader"]}, lease_s=600)).action == "updated"


def test_a_stack_that_somebody_is_changing_is_waited_for(aws: CloudFormation) -> None:
    aws.answers(
        stack("UPDATE_IN_PROGRESS"),
        stack("UPDATE_IN_PROGRESS"),
        stack("UPDATE_COMPLETE"),
        deployed(),
        UPDATED,
    )
    aws.answers(stack("UPDATE_COMPLETE"))

    assert aws.apply().action == "updated"


def test_making_it_that_fails_leaves_nothing_and_says_the_first_reason(aws: CloudFormation) -> None:
    failed = events(
        (
            "ROLLBACK_IN_PROGRESS",
            "acme",
            "The following resource(s) failed to create: [QueueDocumentsReader]",
        ),
        ("CREATE_FAILED", "Topic", "Resource creation cancelled"),
        ("CREATE_FAILED", "QueueDocumentsReader", "acme-documents-reader already exists"),
        ("CREATE_IN_PROGRESS", "acme", "User Initiated"),
        ("CREATE_FAILED", "Older", "of another time"),
    )
    aws.answers(
        GONE,
        MADE,
        stack("ROLLBACK_COMPLETE"),
        failed,
        ("delete_stack", {}),
        stack("DELETE_COMPLETE"),
    )

    with pytest.raises(AwsError) as caught:
        aws.apply()

    reason = "QueueDocumentsReader (AWS::SQS::Queue): acme-documents-reader already exists"
    assert (
        str(caught.value) == f"stack 'acme' could not be created, nothing of it is left: {reason}"
    )


def test_an_update_that_fails_says_that_all_is_as_it_was(aws: CloudFormation) -> None:
    failed = events(
        ("UPDATE_FAILED", "Queue", "Access denied"),
        ("UPDATE_IN_PROGRESS", "acme", "User Initiated"),
    )
    aws.answers(
        stack("CREATE_COMPLETE"), deployed(), UPDATED, stack("UPDATE_ROLLBACK_COMPLETE"), failed
    )

    with pytest.raises(AwsError, match="could not be updated, it is what it was before: Queue"):
        aws.apply()


@pytest.mark.parametrize("url", [None, f"aws://{REGION}/other"])
def test_a_stack_of_somebody_else_is_never_changed(aws: CloudFormation, url: str | None) -> None:
    aws.answers(stack("CREATE_COMPLETE", url))

    with pytest.raises(NameTaken, match="choose another name for the stack"):
        aws.apply()


@pytest.mark.parametrize("status", ["ROLLBACK_COMPLETE", "DELETE_FAILED", "REVIEW_IN_PROGRESS"])
def test_a_stack_that_cannot_be_updated_has_to_be_deleted_first(
    aws: CloudFormation, status: str
) -> None:
    aws.answers(stack(status))

    with pytest.raises(AwsError, match="aws cloudformation delete-stack --stack-name acme"):
        aws.apply()


def test_an_update_that_would_delete_queues_needs_to_be_meant(aws: CloudFormation) -> None:
    more = copy.deepcopy(DOCUMENT)
    more["Resources"]["QueueDocumentsArchiver"] = {
        "Type": "AWS::SQS::Queue",
        "DeletionPolicy": "Delete",
    }
    more["Resources"]["DeadLetterQueueDocumentsArchiver"] = {
        "Type": "AWS::SQS::Queue",
        "DeletionPolicy": "Retain",
    }

    aws.answers(stack("CREATE_COMPLETE"), deployed(more))
    with pytest.raises(
        MltriggerError,
        match=r"would delete QueueDocumentsArchiver, with what is in them.*--replace",
    ):
        aws.apply()

    aws.answers(stack("CREATE_COMPLETE"), UPDATED, stack("UPDATE_COMPLETE"))
    assert aws.apply(replace=True).action == "updated"


def test_an_update_that_would_rename_a_queue_needs_to_be_meant(aws: CloudFormation) -> None:
    aws.answers(stack("CREATE_COMPLETE", SubscriptionName="reader"))

    with pytest.raises(MltriggerError, match="would delete the topic and the queues of 'reader'"):
        aws.apply(parameters={"SubscriptionName": "writer"})


def test_waiting_ends(aws: CloudFormation) -> None:
    aws.answers(GONE, MADE, *[stack("CREATE_IN_PROGRESS")] * 3)

    with pytest.raises(
        AwsError, match="still CREATE_IN_PROGRESS after 6 s; calling again waits for it"
    ):
        aws.apply(timeout_s=6.0)


def test_who_may_not_is_told_which_permission_is_missing(aws: CloudFormation) -> None:
    aws.answers(GONE, ("create_stack", "AccessDenied", "no"))

    with pytest.raises(AwsError, match="allow cloudformation:CreateStack"):
        aws.apply()


def test_a_parameter_that_the_template_has_not_is_refused_before_anything_is_asked(
    aws: CloudFormation,
) -> None:
    with pytest.raises(InvalidName, match="no parameter 'Lease'; it has Prefix, "):
        aws.apply(parameters={"Lease": 1})


def test_a_large_template_needs_a_bucket(aws: CloudFormation) -> None:
    large = template("acme", {f"topic{n}": ["reader", "archiver"] for n in range(10)})
    assert len(json.dumps(large, separators=(",", ":"))) > MAX_BODY_BYTES
    aws.answers(GONE)

    with pytest.raises(MltriggerError, match=r"51,200 in a call: name a bucket"):
        aws.apply(large)


@pytest.mark.filterwarnings("ignore:Tried to parse AWS")
def test_the_command_makes_the_stack_and_prints_its_outputs(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The emulator's CloudFormation knows neither policies nor subscriptions; subscribing adds what
    it left out.
    """
    prefix = emulator.fresh_prefix()
    for name, value in {
        "ENDPOINT_URL": emulator.url,
        "ACCESS_KEY_ID": "testing",
        "SECRET_ACCESS_KEY": "testing",
    }.items():
        monkeypatch.setenv(f"AWS_{name}", value)

    status = main(
        [
            "aws",
            "apply",
            "--stack",
            prefix,
            "--prefix",
            prefix,
            "--topic",
            "documents=reader",
            "--region",
            REGION,
        ]
    )

    printed = capsys.readouterr()
    assert status == 0, printed.err
    assert printed.out.splitlines()[0] == f"stack {prefix} created"
    assert f"BusURL = aws://{REGION}/{prefix}" in printed.out
    assert f"stack '{prefix}' is CREATE_COMPLETE" in printed.err
    assert emulator.client("sqs").get_queue_url(QueueName=f"{prefix}-documents-reader")


def test_the_command_needs_a_region(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("AWS_REGION", raising=False)
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)

    assert main(["aws", "apply", "--stack", "acme"]) == 1
    assert "--region eu-west-1" in capsys.readouterr().err


def test_the_lease_of_a_stack_is_the_one_that_subscribing_would_set(emulator: Emulator) -> None:
    with mt.connect(
        f"aws://{REGION}/{emulator.fresh_prefix()}",
        endpoint_url=emulator.url,
        session=emulator.session(),
        log="memory://",
    ) as bus:
        plan = bus.plan("documents", name="reader")

    wanted = plan.loc[plan["setting"] == "VisibilityTimeout", "wanted"].iloc[0]
    assert wanted == str(DOCUMENT["Parameters"]["LeaseSeconds"]["Default"])
