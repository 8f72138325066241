# The proxy: Trimtab before an engine that runs elsewhere. No torch, no GPU.
#
#   docker build -f docker/proxy.Dockerfile -t trimtab-proxy .
#
# EXTRAS adds what policies need beside the core: --build-arg EXTRAS=retrieval for OPO's index, EXTRAS=milvus for a
# distributed one. Both bring torch; TORCH_INDEX=https://download.pytorch.org/whl/cpu takes the build without CUDA.

FROM python:3.11.14-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY serve serve
COPY retrieval retrieval
COPY prompt_opt prompt_opt
COPY trainers trainers
ARG EXTRAS=""
ARG TORCH_INDEX=""
RUN pip wheel --no-cache-dir --wheel-dir /wheels -c constraints.txt ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} "/src${EXTRAS:+[$EXTRAS]}"

FROM python:3.11.14-slim-bookworm
ARG EXTRAS=""
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --find-links /wheels "trimtab${EXTRAS:+[$EXTRAS]}"
# A number, so that Kubernetes can see that it is not root's. The state (traces, indexes) is all that is ever written.
RUN groupadd --gid 10001 trimtab \
    && useradd --uid 10001 --gid trimtab --home-dir /state --no-create-home --shell /usr/sbin/nologin trimtab \
    && install --directory --owner trimtab --group trimtab /state
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /state
VOLUME /state
USER 10001:10001
EXPOSE 8000
# Alive, not ready: an engine that is away for a while is no reason to start the proxy again.
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/healthz', timeout=2)"]
# It runs as process 1: SIGTERM lets the answers that are under way finish (server.drain_s), SIGHUP reloads.
STOPSIGNAL SIGTERM
ENTRYPOINT ["trimtab"]
CMD ["serve", "--config", "/etc/trimtab/trimtab.toml"]
