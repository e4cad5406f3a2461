# syntax=docker/dockerfile:1
# The REST API and the gallery. No PyTorch, no GPU.
FROM python:3.11-slim-bookworm

ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/home/rushes

# A home (stills are cached there) that any user id may write: compose runs the image as the owner of the training directory.
RUN useradd --uid 1000 --create-home rushes \
    && chmod 1777 /home/rushes

WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY client client
COPY service service
RUN pip install --constraint constraints.txt '.[api,s3]'

USER 1000:1000
EXPOSE 8720
ENTRYPOINT ["rushes"]
CMD ["api"]
