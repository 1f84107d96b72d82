"""The Deployment of workers."""

from __future__ import annotations

from typing import Any

from mltrigger.cli.k8s.workers import Workers

Manifest = dict[str, Any]

_USER = 10001
"""The user of the image. Any number but 0 would do."""
_LAST_WORDS_S = 15
"""What a worker may need beside its calls: to see the signal, to record, to close."""


def metadata(workers: Workers) -> Manifest:
    """Return name, namespace and labels."""
    namespace = {} if workers.namespace is None else {"namespace": workers.namespace}
    return {"name": workers.name, **namespace, "labels": _labels(workers)}


def _labels(workers: Workers) -> Manifest:
    return {
        "app.kubernetes.io/name": workers.name,
        "app.kubernetes.io/component": "worker",
        "app.kubernetes.io/part-of": "mltrigger",
    }


def deployment(workers: Workers) -> Manifest:
    """Return the Deployment. Without replicas it leaves their number to a scaler."""
    replicas = {} if workers.replicas is None else {"replicas": workers.replicas}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(workers),
        "spec": {
            **replicas,
            "selector": {"matchLabels": {"app.kubernetes.io/name": workers.name}},
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
            },
            "template": {"metadata": {"labels": _labels(workers)}, "spec": _pod(workers)},
        },
    }


def grace_s(workers: Workers) -> int:
    """Return the time between SIGTERM and SIGKILL. It exceeds the drain of the worker.

    On AWS long polls of the queues may follow the calls, and have the same time.
    """
    rounds = 1 if workers.kind == "postgresql" else 2
    return rounds * workers.drain_s + _LAST_WORDS_S


def _pod(workers: Workers) -> Manifest:
    account = (
        {} if workers.service_account is None else {"serviceAccountName": workers.service_account}
    )
    return {
        **account,
        # A worker never calls Kubernetes. Identities of clouds have tokens of their own.
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": grace_s(workers),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "fsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(workers)],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    }


def _container(workers: Workers) -> Manifest:
    return {
        "name": "worker",
        "image": workers.image,
        "command": ["mltrigger"],
        "args": _arguments(workers),
        "env": [*(_variable(workers, *each) for each in workers.variables()), _home()],
        "ports": [{"name": "health", "containerPort": workers.port}],
        # To import a large model may take minutes. It is no reason to start again.
        "startupProbe": _probe("/livez", period_s=5, failures=60),
        "livenessProbe": _probe("/livez", period_s=10, failures=6),
        "readinessProbe": _probe("/readyz", period_s=5, failures=2),
        "resources": {
            "requests": {"cpu": workers.cpu, "memory": workers.memory},
            "limits": {"memory": workers.memory},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108 - an emptyDir
    }


def _arguments(workers: Workers) -> list[str]:
    given = ["worker", "--health", f"0.0.0.0:{workers.port}", "--drain-s", str(workers.drain_s)]
    for name in workers.subscriptions:
        given += ["--subscription", name]
    if workers.executor is not None:
        given += ["--executor", workers.executor]
    return given


def _variable(workers: Workers, name: str, value: str | None, key: str | None) -> Manifest:
    if key is None:
        # Kubernetes would put another variable in place of $(NAME).
        return {"name": name, "value": (value or "").replace("$(", "$$(")}
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": workers.secret, "key": key}}}


def _home() -> Manifest:
    """Return the folder where libraries write, since nothing else can be written."""
    return {"name": "HOME", "value": "/tmp"}  # noqa: S108 - an emptyDir


def _probe(path: str, period_s: int, failures: int) -> Manifest:
    return {
        "httpGet": {"path": path, "port": "health"},
        "periodSeconds": period_s,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }
