# Spillway's two images: `control` (operator and webhook) and `sidecar` (daemon, supervisor, and the client that it hands
# to engines). Context: the repository's root, of which only build/images travels; `python -m dev.cluster images` fills
# it with wheels, locked requirements and the supervisor, and builds. With a container engine of your own, after that:
#   docker build --target sidecar -t spillway-sidecar .
ARG BASE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE} AS control
# Where PyPI is reached through a proxy with a certificate of its own; empty elsewhere.
ARG SSL_CERT_FILE
# A folder that the build mounts to keep downloads between builds; empty: downloads are thrown away.
ARG UV_CACHE_DIR
# The bytecode must be there: the root file system is read-only when it runs.
RUN --mount=type=bind,target=/context set -e; [ -n "$SSL_CERT_FILE" ] || unset SSL_CERT_FILE; \
    if ! command -v uv >/dev/null; then \
        python3 -m venv /tmp/uv && /tmp/uv/bin/pip install -q uv && export PATH="$PATH:/tmp/uv/bin"; fi; \
    uv venv -q --python "$(command -v python3)" /opt/spillway; \
    export VIRTUAL_ENV=/opt/spillway UV_LINK_MODE=copy UV_CACHE_DIR="${UV_CACHE_DIR:-/tmp/uv/cache}"; \
    parts=/context/build/images/control; \
    uv pip install -q --compile-bytecode --no-deps --require-hashes -r $parts/requirements.txt; \
    uv pip install -q --compile-bytecode --no-deps $parts/*.whl; \
    rm -rf /tmp/uv
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Spillway control plane" \
      org.opencontainers.image.licenses=Apache-2.0 \
      org.opencontainers.image.revision=${REVISION}
ENV PATH=/opt/spillway/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin PYTHONUNBUFFERED=1
USER 65532:65532

FROM ${BASE} AS sidecar
ARG SSL_CERT_FILE
ARG UV_CACHE_DIR
# Which of the prepared builds of the core goes in.
ARG PARTS=sidecar
RUN --mount=type=bind,target=/context set -e; [ -n "$SSL_CERT_FILE" ] || unset SSL_CERT_FILE; \
    if ! command -v uv >/dev/null; then \
        python3 -m venv /tmp/uv && /tmp/uv/bin/pip install -q uv && export PATH="$PATH:/tmp/uv/bin"; fi; \
    uv venv -q --python "$(command -v python3)" /opt/spillway; \
    export VIRTUAL_ENV=/opt/spillway UV_LINK_MODE=copy UV_CACHE_DIR="${UV_CACHE_DIR:-/tmp/uv/cache}"; \
    parts="/context/build/images/$PARTS"; \
    uv pip install -q --compile-bytecode --no-deps --require-hashes -r "$parts/requirements.txt"; \
    uv pip install -q --compile-bytecode --no-deps "$parts"/*.whl; \
    install -m 0755 "$parts/spillway-supervisor" /usr/local/bin/spillway-supervisor; \
    ln -s /opt/spillway/bin/spillway-client-install /usr/local/bin/spillway-client-install; \
    rm -rf /tmp/uv
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Spillway sidecar" \
      org.opencontainers.image.licenses=Apache-2.0 \
      org.opencontainers.image.revision=${REVISION}
ENV PATH=/opt/spillway/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin PYTHONUNBUFFERED=1
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/spillway-supervisor"]
