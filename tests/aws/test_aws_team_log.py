"""A bus on AWS whose registry and log are in a team's PostgreSQL, on several machines."""

from __future__ import annotations

from typing import Any

from emulators import Account
from shared import outcomes, wait_until

import mltrigger as mt

seen: list[Any] = []


def moody(n: int) -> int:
    if n == 13:
        raise mt.Reject("unlucky")
    if n == 7 and n not in seen:
        seen.append(n)
        raise mt.Retry(delay_s=0.1)
    return 2 * n


def mended(n: int) -> int:
    return 3 * n


def test_two_buses_of_one_account_share_a_registry_and_a_record(team: str, aws: Account) -> None:
    """One publishes, the other one delivers. Each sees what the other one has changed."""
    seen.clear()
    publisher, worker = aws.bus(log=team), aws.bus(log=team)
    sub = worker.subscribe("numbers", mt.model(moody, name="moody", version="1.0.0"))
    receipts = publisher.publish_batch("numbers", [1, 2, 7, 13])

    beside = publisher.subscription("moody")
    wait_until(lambda: len(outcomes(beside)) == 5)  # with a retry
    wait_until(lambda: not sub.depth().open)
    assert sorted(outcomes(beside)) == ["dead", "failed", "succeeded", "succeeded", "succeeded"]
    (dead,) = beside.dead_letters()["event_id"]
    assert dead == receipts[3].event_id
    balance = publisher.audit().iloc[0]
    assert balance["balanced"] and (balance["published"], balance["dead"]) == (4, 1)

    publisher.register(mt.model(mended, name="moody", version="1.1.0"))
    worker.subscribe("numbers", mt.model(mended, name="moody", version="1.1.0"))
    assert beside.redrive() == 1
    wait_until(lambda: outcomes(beside).count("succeeded") == 4)
    for bus in (publisher, worker):
        balance = bus.audit().iloc[0]
        assert balance["balanced"] and (balance["dead"], balance["open"]) == (0, 0)
    found = beside.invocations()
    last = found[found["event_id"] == dead].sort_values("attempt").iloc[-1]
    assert (str(last["version"]), last["output"]) == ("1.1.0", "39")


def test_change_of_the_registry_is_seen_by_the_other_bus(team: str, aws: Account) -> None:
    publisher, worker = aws.bus(log=team), aws.bus(log=team)
    worker.subscribe("numbers", mt.model(moody, name="moody", version="1.0.0"))
    publisher.publish("numbers", 1)
    wait_until(lambda: outcomes(publisher.subscription("moody")) == ["succeeded"])

    publisher.subscription("moody").pause()
    publisher.publish("numbers", 2)
    assert worker.subscription("moody").depth().open == 1
    worker.subscription("moody").resume()
    wait_until(lambda: outcomes(publisher.subscription("moody")) == ["succeeded"] * 2)


def test_log_in_postgresql_of_a_bus_on_aws_is_pruned(team: str, aws: Account) -> None:
    bus = aws.bus(log=team)
    sub = bus.subscribe("numbers", mt.model(moody, name="moody", version="1.0.0"))
    bus.publish_batch("numbers", list(range(20, 30)))
    wait_until(lambda: outcomes(sub) == ["succeeded"] * 10)
    wait_until(lambda: not sub.depth().open)

    bus.retain(max_events=3)
    pruned = bus.prune()

    assert (pruned.events, pruned.held) == (7, 0)
    assert len(sub.invocations()) == 3
    assert bus.audit()["balanced"].all()
