# A worker: one GPU, one process. PyTorch's wheels bring CUDA along, so the base needs none;
# the host needs an NVIDIA driver and the NVIDIA Container Toolkit.
FROM python:3.11-slim-bookworm

ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONUNBUFFERED=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    HOME=/home/rushes \
    HF_HOME=/hub \
    RUSHES_CACHE_DIR=/cache

# Writable by any user id: compose runs the image as the owner of the training directory.
RUN useradd --uid 1000 --create-home rushes \
    && mkdir -m 1777 /hub /cache \
    && chmod 1777 /home/rushes

WORKDIR /app
# The dependencies (gigabytes) in a layer of their own, rebuilt when pyproject.toml or constraints.txt changes.
COPY pyproject.toml constraints.txt ./
RUN mkdir -p client/rushes service/rushes_service \
    && touch README.md LICENSE client/rushes/__init__.py service/rushes_service/__init__.py \
    && pip install --constraint constraints.txt '.[service,s3]' hatchling \
    && pip uninstall --yes rushes

COPY README.md LICENSE ./
COPY client client
COPY service service
# Offline: what builds it was installed above.
RUN pip install --no-deps --no-build-isolation .

USER 1000:1000
ENTRYPOINT ["rushes"]
CMD ["worker", "--device", "cuda:0"]
