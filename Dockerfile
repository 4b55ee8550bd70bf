# docker build -t yoloflow .
# docker run --rm --shm-size 2g -v "$PWD:/work" yoloflow train quickstart
#
# Torch's default wheels bring the libraries of CUDA. For a far smaller image give the address of torch's
# wheels for CPUs: docker build --build-arg TORCH_INDEX=ADDRESS -t yoloflow .
FROM python:3.13-slim

ARG TORCH_INDEX=""
ENV PIP_NO_CACHE_DIR=1 \
    PYTHONUNBUFFERED=1 \
    MPLBACKEND=Agg \
    XDG_CACHE_HOME=/tmp/cache

WORKDIR /source
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY yoloflow yoloflow
# Versions are bounded in pyproject.toml; the unquoted words are none, or an option and its value.
# hadolint ignore=DL3013,SC2086
RUN pip install ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} ".[export]" \
    && useradd --create-home --uid 1000 trainer

USER 1000
WORKDIR /work
ENTRYPOINT ["yoloflow"]
CMD ["--help"]
