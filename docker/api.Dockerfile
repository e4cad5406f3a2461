# The REST API and the gallery. No PyTorch, no GPU.
# PYTHON_IMAGE may be pinned: python:3.11-slim-bookworm@sha256:...
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE}

ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/home/rushes

# A home (stills are cached there) that any user id may write: compose runs the image as the owner of the training directory.
RUN useradd --uid 1000 --create-home rushes \
    && chmod 1777 /home/rushes

WORKDIR /app
# The dependencies in a layer of their own, rebuilt when pyproject.toml or constraints.txt changes.
COPY pyproject.toml constraints.txt ./
RUN mkdir -p client/rushes service/rushes_service \
    && touch README.md LICENSE client/rushes/__init__.py service/rushes_service/__init__.py \
    && pip install --constraint constraints.txt '.[api,s3]' hatchling \
    && pip uninstall --yes rushes

COPY README.md LICENSE ./
COPY client client
COPY service service
# Offline: what builds it was installed above.
RUN pip install --no-deps --no-build-isolation .

LABEL org.opencontainers.image.title="Rushes API and gallery" \
      org.opencontainers.image.version="0.2.0" \
      org.opencontainers.image.licenses="Apache-2.0"
USER 1000:1000
EXPOSE 8720
ENTRYPOINT ["rushes"]
CMD ["api"]
