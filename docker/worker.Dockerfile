# A worker: one GPU, one process. PyTorch's wheels bring CUDA along, so the base needs none;
# the host needs an NVIDIA driver and the NVIDIA Container Toolkit.
# Two targets: `cuda`, the last and so the default, and `cpu`, to try it out without a GPU.
# PYTHON_IMAGE may be pinned: python:3.11-slim-bookworm@sha256:...
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS base
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/home/rushes \
    HF_HOME=/hub \
    RUSHES_CACHE_DIR=/cache

# Writable by any user id: compose runs the image as the owner of the training directory.
RUN useradd --uid 1000 --create-home rushes \
    && mkdir -m 1777 /hub /cache \
    && chmod 1777 /home/rushes

WORKDIR /app
# What pip needs to know the dependencies by. They are a layer of their own, rebuilt when one of these files changes.
COPY pyproject.toml constraints.txt docker/slim-torch.sh ./
RUN mkdir -p client/rushes service/rushes_service \
    && touch README.md LICENSE client/rushes/__init__.py service/rushes_service/__init__.py

FROM base AS cpu
# Where PyTorch's builds for the CPU are, as docker-compose.yml says it: PyPI has those for CUDA alone, of gigabytes.
ARG TORCH_INDEX
RUN PIP_EXTRA_INDEX_URL="$TORCH_INDEX" pip install --constraint constraints.txt \
        "torch==$(sed -n 's/^torch==//p' constraints.txt)+cpu" '.[service,s3]' hatchling \
    && pip uninstall --yes rushes \
    && ./slim-torch.sh
COPY README.md LICENSE ./
COPY client client
COPY service service
# Offline: what builds it was installed above.
RUN pip install --no-deps --no-build-isolation .
LABEL org.opencontainers.image.title="Rushes worker (CPU)" \
      org.opencontainers.image.version="0.2.0" \
      org.opencontainers.image.licenses="Apache-2.0"
USER 1000:1000
ENTRYPOINT ["rushes"]
CMD ["worker", "--device", "cpu"]

FROM base AS cuda
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN pip install --constraint constraints.txt '.[service,s3]' hatchling \
    && pip uninstall --yes rushes \
    && ./slim-torch.sh
COPY README.md LICENSE ./
COPY client client
COPY service service
RUN pip install --no-deps --no-build-isolation .
LABEL org.opencontainers.image.title="Rushes worker (CUDA)" \
      org.opencontainers.image.version="0.2.0" \
      org.opencontainers.image.licenses="Apache-2.0"
USER 1000:1000
ENTRYPOINT ["rushes"]
CMD ["worker", "--device", "cuda:0"]
