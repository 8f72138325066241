# vLLM and Trimtab in one container: Trimtab launches and supervises vLLM on the GPUs that the container gets.
#
#   docker build -f docker/vllm.Dockerfile -t trimtab-vllm .
#
# Trimtab lives in an environment of its own, so that neither's pins bind the other; it starts the image's `vllm`,
# which it finds on the PATH.

ARG VLLM=v0.32.0

FROM vllm/vllm-openai:${VLLM} AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY serve serve
COPY retrieval retrieval
COPY prompt_opt prompt_opt
COPY trainers trainers
# tokenizers counts a launched model's tokens exactly.
RUN uv venv /opt/trimtab --python "$(command -v python3)" \
    && uv pip install --no-cache --python /opt/trimtab/bin/python -c constraints.txt /src tokenizers

FROM vllm/vllm-openai:${VLLM}
COPY --from=build /opt/trimtab /opt/trimtab
# HOME holds every cache of vLLM's (models, compiled kernels): a volume, so that only the first start is slow.
RUN groupadd --gid 10001 trimtab \
    && useradd --uid 10001 --gid trimtab --home-dir /cache --no-create-home --shell /usr/sbin/nologin trimtab \
    && install --directory --owner trimtab --group trimtab /state /cache
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/cache PATH=/opt/trimtab/bin:$PATH
WORKDIR /state
VOLUME ["/state", "/cache"]
USER 10001:10001
EXPOSE 8000
# Ready: the model is loaded. The first start downloads it.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30m --retries=6 \
    CMD ["/opt/trimtab/bin/python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/readyz', timeout=2)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["trimtab"]
CMD ["serve", "--config", "/etc/trimtab/trimtab.toml"]
