"""The doctor on AWS: what it finds out by looking, against an emulator; each finding is brought
about by a bare client.
"""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pandas as pd
import pytest
from emulators import Account
from test_aws_resources import refused

import mltrigger as mt
from mltrigger.aws.admin import doctor as health
from mltrigger.broker import Depth
from mltrigger.cli import main


def same(data: Any) -> Any:
    return data


MODEL = mt.model(same, version="1.0.0")
NOTHING = Depth(0, 0, 0, 0, None)


def said(found: pd.DataFrame, check: str) -> tuple[str, str, str]:
    """Return severity, finding and advice of the one row about *check*."""
    rows = found[found["check"] == check]
    assert len(rows) == 1, found.to_string()
    row = rows.iloc[0]
    return str(row["severity"]), str(row["finding"]), str(row["advice"])


def checks(found: pd.DataFrame) -> set[str]:
    return set(found["check"])


def subscribed(aws: Account, **policy: Any) -> tuple[mt.EventBus, mt.Subscription, str]:
    """Return a bus, its only subscription, which nobody listens to, and the URL of its queue."""
    bus = aws.bus(hooked=True)
    sub = bus.subscribe("documents", MODEL, name="reader", listen=False, **policy)
    return bus, sub, aws.sqs.get_queue_url(QueueName=f"{aws.prefix}-documents-reader")["QueueUrl"]


def change(aws: Account, queue: str, **attributes: str) -> None:
    aws.sqs.set_queue_attributes(QueueUrl=queue, Attributes=attributes)


def test_there_is_nothing_to_say_about_what_subscribing_has_made(aws: Account) -> None:
    bus = aws.bus()
    bus.subscribe("documents", MODEL, name="reader", filter={"kind": ["invoice"]})

    assert list(bus.doctor("reader")["check"]) == ["all"]
    assert checks(bus.doctor()) <= {"all", "SQLite"}


def test_a_setting_that_somebody_changed_is_shown_beside_what_it_should_be(aws: Account) -> None:
    _, sub, queue = subscribed(aws)

    change(aws, queue, VisibilityTimeout="17")

    severity, finding, advice = said(sub.doctor(), "VisibilityTimeout")
    assert severity == "warning"
    assert "VisibilityTimeout is 17; subscribing would set 360" in finding
    assert "subscribe again" in advice
    assert "six times timeout_s" in advice


def test_looking_changes_nothing(aws: Account) -> None:
    bus, _, queue = subscribed(aws)
    change(aws, queue, VisibilityTimeout="17")
    bus.publish("documents", 1)
    aws.faults.clear()

    bus.doctor()

    asked = {name for name, _ in aws.faults.calls}
    assert asked
    assert all(name.startswith(("Get", "List")) for name in asked), asked
    assert aws.waiting(queue) == 1


def test_a_queue_that_was_deleted_is_an_error(aws: Account) -> None:
    bus, _, queue = subscribed(aws)

    aws.sqs.delete_queue(QueueUrl=queue)

    severity, finding, _ = said(bus.doctor(), "queue")
    assert severity == "error"
    assert f"no queue '{aws.prefix}-documents-reader'" in finding


def test_a_subscription_of_sns_that_was_deleted_is_an_error(aws: Account) -> None:
    _, sub, _ = subscribed(aws)
    (feed,) = aws.feeds()

    aws.sns.unsubscribe(SubscriptionArn=feed["SubscriptionArn"])

    severity, finding, advice = said(sub.doctor(), "subscription")
    assert severity == "error"
    assert "does not exist" in finding
    assert "subscribing again makes it" in advice


@pytest.mark.parametrize(("receives", "severity"), [(3, "error"), (5, "error"), (12, "warning")])
def test_fewer_receives_than_attempts_take_events_away(
    aws: Account, receives: int, severity: str
) -> None:
    _, sub, queue = subscribed(aws, max_attempts=5)
    redrive = json.loads(
        aws.sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["RedrivePolicy"])[
            "Attributes"
        ]["RedrivePolicy"]
    )

    change(aws, queue, RedrivePolicy=json.dumps({**redrive, "maxReceiveCount": receives}))

    found = sub.doctor()
    assert said(found, "maxReceiveCount")[0] == severity
    assert f"after {receives} receives; max_attempts is 5" in said(found, "maxReceiveCount")[1]
    assert "RedrivePolicy" not in checks(found)  # said once


def test_dead_letters_that_go_before_they_are_looked_at_are_a_warning(aws: Account) -> None:
    _, sub, _ = subscribed(aws)

    change(
        aws,
        aws.sqs.get_queue_url(QueueName=f"{aws.prefix}-documents-reader-dead")["QueueUrl"],
        MessageRetentionPeriod="345600",
    )

    severity, finding, advice = said(sub.doctor(), "dead-letter retention")
    assert severity == "warning"
    assert "345,600 s, the queue for 864,000 s" in finding
    assert "1209600" in advice


def test_attempts_that_take_longer_than_the_queue_keeps_a_message_are_a_warning(
    aws: Account,
) -> None:
    _, sub, queue = subscribed(aws, timeout_s=600, max_attempts=10)

    change(aws, queue, MessageRetentionPeriod="3600")

    severity, finding, _ = said(sub.doctor(), "queue retention")
    assert severity == "warning"
    assert "the queue keeps a message for 3,600 s" in finding


def test_an_event_that_sqs_will_soon_delete_is_a_warning(aws: Account) -> None:
    bus, sub, _ = subscribed(aws)
    old = Depth(1, 0, 0, 0, oldest_s=6 * 86_400.0)

    found = bus.broker.findings(bus.spec(sub.name), old)

    assert [(f.severity, f.check) for f in found] == [("warning", "age")]
    assert "518,400 s old; SQS deletes it at 864,000 s" in found[0].finding


def test_what_sqs_moved_to_the_dead_letter_queue_waits_to_be_taken_over(aws: Account) -> None:
    bus, sub, _ = subscribed(aws)

    aws.sqs.send_message(
        QueueUrl=aws.sqs.get_queue_url(QueueName=f"{aws.prefix}-documents-reader-dead")["QueueUrl"],
        MessageBody="{}",
    )

    severity, finding, _ = said(sub.doctor(), "dead-letter queue")
    assert (severity, "about 1 message(s)" in finding) == ("warning", True)
    bus.broker.bury(bus.spec("reader"))  # type: ignore[attr-defined]
    assert "dead-letter queue" not in checks(sub.doctor())


def test_a_backlog_without_a_listener_is_an_error_whoever_published_it(aws: Account) -> None:
    _, sub, queue = subscribed(aws)

    for _ in range(3):
        aws.sqs.send_message(QueueUrl=queue, MessageBody="{}")

    severity, finding, _ = said(sub.doctor(), "listener")
    assert severity == "error"
    assert "3 events waiting" in finding


def test_messages_that_somebody_else_has_received_are_mentioned(aws: Account) -> None:
    _, sub, queue = subscribed(aws)
    aws.sqs.send_message(QueueUrl=queue, MessageBody="{}")

    aws.sqs.receive_message(QueueUrl=queue)

    severity, finding, _ = said(sub.doctor(), "in flight")
    assert severity == "info"
    assert "hidden although no listener" in finding


def test_a_permission_that_the_owner_of_a_queue_has_not_given_is_an_error(aws: Account) -> None:
    bus = aws.bus()
    queue = aws.queue()
    sub = bus.subscribe(queue, MODEL, name="theirs", listen=False)
    clients: Any = bus.broker._clients  # type: ignore[attr-defined]

    with refused(clients.sqs, "DeleteMessage"):
        severity, finding, advice = said(sub.doctor(), "permission")

    assert severity == "error"
    assert "sqs:DeleteMessage is missing" in finding
    assert f"--queue {aws.arn(queue)}" in advice
    assert "permission" not in checks(sub.doctor())


def test_nothing_of_somebody_elses_queue_is_compared_with_ours(aws: Account) -> None:
    bus = aws.bus()
    sub = bus.subscribe(aws.queue(VisibilityTimeout="5"), MODEL, name="theirs", listen=False)

    assert checks(sub.doctor()) == {"listener"}


def test_the_owner_of_a_queue_is_asked_for_more_receives(aws: Account) -> None:
    bus = aws.bus()
    dead = aws.queue(MessageRetentionPeriod="60")
    redrive = {"deadLetterTargetArn": aws.arn(dead), "maxReceiveCount": 2}
    sub = bus.subscribe(
        aws.queue(RedrivePolicy=json.dumps(redrive)), MODEL, name="theirs", listen=False
    )

    found = sub.doctor()

    assert "ask its owner for more than 8" in said(found, "maxReceiveCount")[2]
    assert said(found, "dead-letter retention")[0] == "warning"


def test_who_may_not_look_is_told_so_and_not_alarmed(aws: Account) -> None:
    bus, sub, _ = subscribed(aws)
    clients: Any = bus.broker._clients  # type: ignore[attr-defined]

    with refused(clients.sns, "GetTopicAttributes", code="AuthorizationError"):
        severity, finding, advice = said(sub.doctor(), "settings")

    assert severity == "info"
    assert "sns:GetTopicAttributes" in finding
    assert "administrator" in advice


def test_events_that_sns_has_not_confirmed_are_counted_with_their_age(aws: Account) -> None:
    bus, _, _ = subscribed(aws)
    clients: Any = bus.broker._clients  # type: ignore[attr-defined]

    with (
        refused(clients.sns, "PublishBatch", code="AuthorizationError"),
        pytest.raises(mt.MltriggerError),
    ):
        bus.publish_batch("documents", [1, 2, 3])

    severity, finding, advice = said(bus.doctor(), "unsent")
    assert severity == "info"
    assert finding.startswith("3 events published here are not confirmed")
    assert "mltrigger worker" in advice
    assert health.unsent_finding(1, 3600.0).severity == "warning"


def test_credentials_that_do_not_work_are_an_error(aws: Account) -> None:
    bus = aws.bus()
    clients: Any = bus.broker._clients  # type: ignore[attr-defined]

    with refused(clients.sts, "GetCallerIdentity", code="ExpiredToken"):
        severity, finding, _ = said(bus.doctor(), "credentials")

    assert severity == "error"
    assert "expired" in finding


@pytest.mark.parametrize(("ahead_s", "said_so"), [(0, []), (-240, ["clock"]), (240, ["clock"])])
def test_a_clock_that_is_off_is_a_warning(aws: Account, ahead_s: float, said_so: list[str]) -> None:
    clients: Any = aws.bus().broker._clients  # type: ignore[attr-defined]
    now_s = dt.datetime.now(dt.UTC).timestamp()

    found = list(health.account_findings(clients, now_s + ahead_s))

    assert [f.check for f in found] == said_so


def test_doctor_on_the_command_line_looks_at_aws(
    aws: Account, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "URL": aws.emulator.url,
        "ACCESS_KEY_ID": "testing",
        "SECRET_ACCESS_KEY": "testing",
    }.items():
        monkeypatch.setenv("AWS_ENDPOINT_URL" if name == "URL" else f"AWS_{name}", value)

    assert main(["doctor", "--url", aws.url]) == 1
    assert "no store" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []

    bus = aws.bus(log="sqlite:///mltrigger.db")
    bus.subscribe("documents", MODEL, name="reader", listen=False)
    change(aws, aws.queues()[0], MessageRetentionPeriod="60")
    change(aws, aws.queues()[1], MessageRetentionPeriod="60")
    bus.close()

    main(["doctor", "--url", aws.url])
    assert "warning reader: MessageRetentionPeriod: " in capsys.readouterr().out
