"""``mltrigger k8s``: manifests that a cluster would take, without a secret in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import mltrigger as mt
from mltrigger.cli import main
from mltrigger.cli.k8s.yaml import dumped
from mltrigger.store.postgresql.backlog import backlog_sql
from mltrigger.testing import SimulatedClock

SCHEMAS = Path(__file__).parents[1] / "data" / "kubernetes"
FILES = {
    "Deployment": "deployment-apps-v1.json",
    "ScaledObject": "scaledobject-keda-v1alpha1.json",
    "TriggerAuthentication": "triggerauthentication-keda-v1alpha1.json",
}
TEAM = "postgresql://team@db.example.org:6432/ml?sslmode=require"
POSTGRES = ("--url", TEAM, "--secret", "ocr", "--subscription", "ocr")
AWS = ("--url", "aws://eu-west-1/acme", "--log", TEAM, "--secret", "ocr")
SCALED = {
    "postgres": (*POSTGRES, "--scale", "postgres"),
    "postgres, all in the Secret": ("--secret", "ocr", "--scale", "postgres"),
    "postgres, no password": ("--url", TEAM, "--scale", "postgres"),
    "sqs": (*AWS, "--scale", "sqs", "--topic", "documents=ocr,archive", "--service-account", "ocr"),
    "sqs, by the node": (*AWS, "--scale", "sqs", "--topic", "documents=ocr"),
    "metrics-api": (*POSTGRES, "--scale", "metrics-api", "--api", "https://api.example.org/"),
}
PLAIN = {
    "one": ("--url", TEAM),
    "all": (
        *(*POSTGRES, "--name", "ocr", "--namespace", "ml", "--replicas", "3"),
        *("--executor", "cluster:executor", "--env", "RAY_ADDRESS=10.0.0.1:6379"),
        *("--secret-env", "API_KEY=api-key", "--cpu", "2", "--memory", "4Gi", "--drain-s", "600"),
    ),
}


def printed(capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    """Return the documents that the command prints, by their kind."""
    assert main(["k8s", "--image", "registry/ocr:1.0", *options]) == 0, capsys.readouterr().err
    documents = list(yaml.safe_load_all(capsys.readouterr().out))
    assert len({each["kind"] for each in documents}) == len(documents)
    return {each["kind"]: each for each in documents}


def refused(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    assert main(["k8s", "--image", "registry/ocr:1.0", *options]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    return said.err


def container(manifests: dict[str, Any]) -> dict[str, Any]:
    (only,) = manifests["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert isinstance(only, dict)
    return only


def triggers(manifests: dict[str, Any]) -> list[dict[str, Any]]:
    return [each["metadata"] for each in manifests["ScaledObject"]["spec"]["triggers"]]


# -- what a cluster would take ---------------------------------------------------------------------


@pytest.mark.parametrize("options", [*PLAIN.values(), *SCALED.values()], ids=[*PLAIN, *SCALED])
def test_manifests_keep_to_the_schemas_of_their_kinds(
    options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    for kind, manifest in printed(capsys, *options).items():
        schema = json.loads((SCHEMAS / FILES[kind]).read_text())
        jsonschema.Draft202012Validator(schema).validate(manifest)


def test_the_schemas_find_a_field_that_no_cluster_knows(capsys: pytest.CaptureFixture[str]) -> None:
    manifests = printed(capsys, *SCALED["postgres"])
    spoilt = [
        ("Deployment", container(manifests)["livenessProbe"]),
        ("ScaledObject", manifests["ScaledObject"]["spec"]["triggers"][0]),
        ("TriggerAuthentication", manifests["TriggerAuthentication"]["spec"]["secretTargetRef"][0]),
    ]
    for kind, place in spoilt:
        place["misspelt"] = 1
        schema = json.loads((SCHEMAS / FILES[kind]).read_text())
        with pytest.raises(jsonschema.ValidationError, match="misspelt"):
            jsonschema.Draft202012Validator(schema).validate(manifests[kind])


def test_the_same_options_print_the_same_text(capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for _ in range(2):
        main(["k8s", "--image", "a", *SCALED["sqs"]])
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]


def test_deployment_starts_the_worker_with_probes_and_time_to_drain(
    capsys: pytest.CaptureFixture[str],
) -> None:
    manifests = printed(capsys, *PLAIN["all"])
    found, pod = container(manifests), manifests["Deployment"]["spec"]["template"]["spec"]
    port = found["ports"][0]["containerPort"]

    assert found["command"] == ["mltrigger"]
    assert found["args"] == [
        *("worker", "--health", f"0.0.0.0:{port}", "--drain-s", "600"),
        *("--subscription", "ocr", "--executor", "cluster:executor"),
    ]
    assert {name: found[name]["httpGet"]["path"] for name in found if name.endswith("Probe")} == {
        "startupProbe": "/livez",
        "livenessProbe": "/livez",
        "readinessProbe": "/readyz",
    }
    assert pod["terminationGracePeriodSeconds"] > 600
    assert manifests["Deployment"]["spec"]["replicas"] == 3
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert found["securityContext"]["readOnlyRootFilesystem"] is True
    assert {mount["name"] for mount in found["volumeMounts"]} == {v["name"] for v in pod["volumes"]}


def test_worker_takes_the_arguments_of_the_deployment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []
    monkeypatch.setattr("mltrigger.cli.worker", lambda arguments: given.append(arguments) or 0)
    assert main(container(printed(capsys, *PLAIN["all"]))["args"]) == 0

    (arguments,) = given
    assert (arguments.health, arguments.drain_s) == (("0.0.0.0", 8080), 600.0)
    assert (arguments.subscription, arguments.executor) == (["ocr"], "cluster:executor")


def test_the_time_to_drain_covers_long_polls_on_aws(capsys: pytest.CaptureFixture[str]) -> None:
    manifests = printed(capsys, *AWS, "--drain-s", "20")
    assert manifests["Deployment"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > 40


def test_variables_come_from_the_options_and_from_the_secret(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = {each["name"]: each for each in container(printed(capsys, *PLAIN["all"]))["env"]}
    assert found["MLTRIGGER_URL"]["value"] == TEAM
    assert found["PGPASSWORD"]["valueFrom"]["secretKeyRef"] == {"name": "ocr", "key": "password"}
    assert found["API_KEY"]["valueFrom"]["secretKeyRef"] == {"name": "ocr", "key": "api-key"}
    assert found["RAY_ADDRESS"]["value"] == "10.0.0.1:6379"

    found = {each["name"]: each for each in container(printed(capsys, "--secret", "ocr"))["env"]}
    assert found["MLTRIGGER_URL"]["valueFrom"]["secretKeyRef"] == {"name": "ocr", "key": "url"}
    assert "PGPASSWORD" not in found


def test_kubernetes_expands_no_variable_in_a_value(capsys: pytest.CaptureFixture[str]) -> None:
    manifests = printed(capsys, "--url", TEAM, "--env", "WORDS=$(HOME)")
    (found,) = [each for each in container(manifests)["env"] if each["name"] == "WORDS"]
    assert found["value"] == "$$(HOME)"


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "--secret NAME, key 'url'"),
        (("--url", "postgresql://team:hunter2@db/ml"), "key 'password'"),
        (("--url", "postgresql://team@db/ml?password=hunter2"), "key 'password'"),
        ((*AWS[:3], "postgresql://team:hunter2@db/ml"), "--log has a password"),
        (("--url", TEAM, "--env", "API_KEY=hunter2"), "--secret-env"),
        (("--url", TEAM, "--secret-env", "API_KEY=k"), "add --secret NAME"),
        (("--url", TEAM, "--env", "MLTRIGGER_URL=x"), "is set already"),
        (("--url", TEAM, "--env", "NOTHING"), "NAME=VALUE"),
        ((*POSTGRES, "--env", "A=1", "--secret-env", "A=k"), "A is set already"),
        ((*POSTGRES, "--secret-env", "A=k/k"), "cannot be a key"),
        (("--url", "sqlite:///bus.db"), "postgresql://"),
        (AWS[:2], "--log postgresql://"),
        (("--url", TEAM, "--name", "OCR"), "small letters"),
        (("--url", TEAM, "--subscription", "a'b"), "subscription name"),
        (("--url", TEAM, "--memory", "much"), "512Mi"),
        (("--url", TEAM, "--replicas", "2", "--scale", "postgres"), "no --replicas"),
        (("--url", TEAM, "--replicas", "-1"), "--replicas -1"),
        (("--url", TEAM, "--scale", "postgres", "--min", "5", "--max", "2"), "--min 5 --max 2"),
        (("--url", TEAM, "--scale", "postgres", "--backlog", "0"), "--backlog 0"),
        (("--url", "postgresql:///ml", "--scale", "postgres"), "leaves host, userName"),
        (("--url", "postgresql://u@a:1,b:2/ml", "--scale", "postgres"), "one host"),
        ((*AWS, "--scale", "postgres"), "--scale sqs"),
        ((*AWS, "--scale", "sqs"), "--topic"),
        ((*AWS, "--scale", "sqs", "--topic", "documents"), "TOPIC=SUBSCRIPTION"),
        ((*POSTGRES, "--scale", "sqs", "--topic", "a=b"), "aws://region/prefix"),
        ((*POSTGRES, "--scale", "metrics-api"), "--api"),
        ((*POSTGRES, "--topic", "a=b"), "--scale sqs"),
        (("--url", TEAM, "--scale", "metrics-api", "--api", "https://a"), "key 'token'"),
    ],
)
def test_wrong_options_are_refused_with_advice_and_print_nothing(
    options: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    error = refused(capsys, *options)
    assert said in error
    assert "hunter2" not in error


# -- the image -------------------------------------------------------------------------------------

ROOT = Path(__file__).parents[2]


def test_image_has_the_user_the_port_and_the_probe_of_the_manifests(
    capsys: pytest.CaptureFixture[str],
) -> None:
    manifests = printed(capsys, *PLAIN["one"])
    pod, found = manifests["Deployment"]["spec"]["template"]["spec"], container(manifests)
    lines = (ROOT / "Dockerfile").read_text()
    security, probe = pod["securityContext"], found["livenessProbe"]["httpGet"]

    assert f"USER {security['runAsUser']}:{security['runAsGroup']}\n" in lines
    assert f"127.0.0.1:{found['ports'][0]['containerPort']}{probe['path']}" in lines
    assert f"ENTRYPOINT {json.dumps(found['command'])}\n" in lines
    assert "-c constraints.txt" in lines


def test_image_copies_what_is_there_and_sent_to_the_builder() -> None:
    copied = [
        word
        for line in (ROOT / "Dockerfile").read_text().splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for word in line.split()[1:-1]
    ]
    sent = (ROOT / ".dockerignore").read_text().splitlines()

    assert copied
    assert [name for name in copied if not (ROOT / name).exists() or f"!{name}" not in sent] == []


# -- the backlog -----------------------------------------------------------------------------------


def test_postgres_is_asked_with_the_password_of_the_secret(
    capsys: pytest.CaptureFixture[str],
) -> None:
    manifests = printed(capsys, *SCALED["postgres"], "--backlog", "50", "--max", "4")
    (found,) = triggers(manifests)
    query = found.pop("query")
    assert found == {
        "host": "db.example.org",
        "port": "6432",
        "userName": "team",
        "dbName": "ml",
        "sslmode": "require",
        "targetQueryValue": "50",
        "activationTargetQueryValue": "0",
    }
    assert query == backlog_sql("mltrigger_bus", ["ocr"], most=201)
    assert manifests["TriggerAuthentication"]["spec"]["secretTargetRef"] == [
        {"parameter": "password", "name": "ocr", "key": "password"}
    ]
    assert "replicas" not in manifests["Deployment"]["spec"]


def test_schema_of_the_url_is_that_of_the_query(capsys: pytest.CaptureFixture[str]) -> None:
    (found,) = triggers(printed(capsys, "--url", f"{TEAM}&schema=ours", "--scale", "postgres"))
    assert '"ours".event' in found["query"]


def test_sqs_has_a_trigger_for_the_queue_of_each_subscription(
    capsys: pytest.CaptureFixture[str],
) -> None:
    manifests = printed(capsys, *SCALED["sqs"])
    assert [(t["queueURL"], t["awsRegion"]) for t in triggers(manifests)] == [
        ("acme-documents-ocr", "eu-west-1"),
        ("acme-documents-archive", "eu-west-1"),
    ]
    assert manifests["TriggerAuthentication"]["spec"]["podIdentity"] == {
        "provider": "aws",
        "identityOwner": "workload",
    }


def test_metrics_api_reads_the_depth_of_a_subscription(capsys: pytest.CaptureFixture[str]) -> None:
    (found,) = triggers(printed(capsys, *SCALED["metrics-api"]))
    assert found["url"] == "https://api.example.org/v1/subscriptions/ocr/depth"
    assert (found["valueLocation"], found["authMode"]) == ("backlog", "bearer")


def test_backlog_is_what_depth_calls_visible_and_in_flight(
    bus: mt.EventBus, clock: SimulatedClock
) -> None:
    def backlog(*names: str, most: int = 1000) -> int:
        now_us = str(clock.now_us())
        (row,) = bus._store.read(backlog_sql(None, names, most=most, now_us=now_us))
        return int(row[0])

    plain = bus.subscribe("numbers", lambda n: n, name="plain", listen=False)
    large = bus.subscribe(
        "numbers",
        lambda n: n,
        name="large",
        listen=False,
        filter={"size": [{"numeric": [">", 5]}]},
        filter_scope="body",
    )
    other = bus.subscribe("others", lambda n: n, name="other", listen=False)
    assert backlog() == 0
    bus.publish_batch("numbers", [{"size": n} for n in range(10)])
    bus.publish("numbers", {"size": 7}, delay_s=60)
    bus.publish("others", {})
    leased = bus.broker.receive(bus.spec("plain"), 3, 0.0)

    assert (plain.depth().visible, plain.depth().in_flight, plain.depth().delayed) == (7, 3, 1)
    assert backlog("plain") == 10
    assert backlog("large") == large.depth().visible == 4
    assert backlog("plain", "large", "nobody") == 14
    assert backlog() == 14 + other.depth().visible
    assert backlog("plain", most=5) == 5 + 3  # leases count in full
    clock.advance(61)
    assert backlog("large") == 5
    plain.pause()
    assert backlog("plain") == 0
    assert len(leased) == 3
    bus.unsubscribe("large")
    assert backlog("large") == 0


def test_lane_counts_with_its_subscription(bus: mt.EventBus, clock: SimulatedClock) -> None:
    bus.register(lambda n: n, name="score", version="1.0.0")
    bus.register(lambda n: n + 1, name="score", version="2.0.0")
    sub = bus.subscribe("numbers", "score:1.0.0", name="plain", listen=False)
    bus.publish_batch("numbers", range(5))
    sub.replay("score:2.0.0")
    (row,) = bus._store.read(backlog_sql(None, ["plain"], now_us=str(clock.now_us())))

    assert row[0] == 10


@pytest.mark.parametrize("name", ["", "x" * 64, "a\0b"])
def test_schema_that_cannot_be_one_is_refused(name: str) -> None:
    with pytest.raises(mt.InvalidName):
        backlog_sql(name)


def test_names_in_the_select_stay_names() -> None:
    sql = backlog_sql('a"; DROP', ["o'k"])
    assert "'o''k'" in sql and '"a""; DROP".event' in sql and "\n" not in sql


# -- YAML ------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(TEXT, VALUES, min_size=1, max_size=4))
def test_what_is_written_is_read_again(value: dict[str, Any]) -> None:
    assert yaml.safe_load(dumped(value)) == value


@pytest.mark.parametrize(
    "word", ["no", "On", "null", "~", "1e3", "0x1", "2026-11-30", "", "-", "y"]
)
def test_text_stays_text(word: str) -> None:
    assert yaml.safe_load(dumped({"a": [word]})) == {"a": [word]}
    assert dumped({"a": word}) == f'a: "{word}"\n'
