# syntax=docker/dockerfile:1
# The image of `mltrigger worker` and `mltrigger serve`. It was never built by the tests or by CI, which have no
# Docker and no registry of images: hadolint has read it, no more. docs/kubernetes.md says how to add models.
#
#   docker build -t registry/mltrigger:dev .
#
# The tag of the base moves with security updates. To pin it, add the digest that your registry shows.
FROM python:3.13-slim-bookworm AS build

# What is installed beside the package. Others: aws needs none, dask, ray, onnx, mlflow, brokers.
ARG EXTRAS=postgres,serve,schema
WORKDIR /src
COPY constraints.txt setup.cfg pyproject.toml README.md LICENSE ./
COPY mltrigger mltrigger
COPY notebooks notebooks
RUN python -m venv /opt/mltrigger \
    && /opt/mltrigger/bin/pip install --no-cache-dir -c constraints.txt "setuptools>=77" \
    && /opt/mltrigger/bin/pip install --no-cache-dir -c constraints.txt ".[${EXTRAS}]"

FROM python:3.13-slim-bookworm

RUN groupadd --gid 10001 mltrigger \
    && useradd --uid 10001 --gid mltrigger --home-dir /tmp --no-create-home --shell /usr/sbin/nologin mltrigger
COPY --from=build /opt/mltrigger /opt/mltrigger
ENV PATH=/opt/mltrigger/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
# The modules of models belong here: a worker imports from its working directory.
WORKDIR /app
USER 10001:10001

# Kubernetes has probes of its own and ignores this one. It is for the default command below.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=6 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/livez', timeout=4)"]

# No init process is needed: SIGTERM drains the worker, and it waits for its own children.
STOPSIGNAL SIGTERM
ENTRYPOINT ["mltrigger"]
CMD ["worker", "--health", "8080"]
