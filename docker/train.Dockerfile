# The trainers: trimtab train and export. PyPI's torch brings the CUDA libraries that it needs.
#
#   docker build -f docker/train.Dockerfile -t trimtab-train .
#   docker run --gpus all --shm-size 8g -v trimtab-runs:/work -v "$PWD/recipes:/recipes:ro" \
#       trimtab-train train sft --config /recipes/sft.yaml --out sft
#
# TORCH_INDEX=https://download.pytorch.org/whl/cpu takes the build without CUDA.

FROM python:3.11.14-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY serve serve
COPY retrieval retrieval
COPY prompt_opt prompt_opt
COPY trainers trainers
ARG TORCH_INDEX=""
RUN pip wheel --no-cache-dir --wheel-dir /wheels -c constraints.txt ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} "/src[train]"

FROM python:3.11.14-slim-bookworm
# torch.compile builds its kernels with the compilers: the CPU's with C++'s, Triton's launchers with C's.
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --find-links /wheels "trimtab[train]"
RUN groupadd --gid 10001 trimtab \
    && useradd --uid 10001 --gid trimtab --home-dir /cache --no-create-home --shell /usr/sbin/nologin trimtab \
    && install --directory --owner trimtab --group trimtab /work /cache
# Every cache is below HOME, a volume. torch.compile's would be in /tmp, where a tmpfs allows no shared libraries.
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/cache TORCHINDUCTOR_CACHE_DIR=/cache/torchinductor
WORKDIR /work
VOLUME ["/work", "/cache"]
USER 10001:10001
# A run ends; nothing asks it how it is.
HEALTHCHECK NONE
# Its last checkpoint is on the volume: the same command goes on from there. Not SIGTERM, for which training has no
# handler: process 1 would not see it, and be killed when the patience of whoever stops it has run out.
STOPSIGNAL SIGINT
ENTRYPOINT ["trimtab"]
CMD ["train", "--list"]
