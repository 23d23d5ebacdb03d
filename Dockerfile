# The daemon with its engine, for the CPU.
#
# PyTorch publishes builds without CUDA on an index of its own; name that index and the image is
# several gigabytes smaller:  docker build --build-arg TORCH_INDEX_URL=... -t bertd .

FROM python:3.11-slim AS build
ARG TORCH_VERSION=2.13.0
ARG TORCH_INDEX_URL=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /app
ENV PATH=/app/bin:$PATH
# For the kernels. Only this stage has a compiler; the version is the base image's.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
# torch first: it is large and changes seldom, so that its layer is built once. It is pinned; the
# linter loses the version behind the optional flag.
# hadolint ignore=DL3013
RUN pip install ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} "torch==${TORCH_VERSION}"
WORKDIR /src
COPY pyproject.toml CMakeLists.txt README.md LICENSE ./
COPY bertd ./bertd
# The checkout itself has no version to pin.
# hadolint ignore=DL3013
RUN BERTD_REQUIRE_KERNELS=1 pip install ".[engine]"

FROM python:3.11-slim
COPY --from=build /app /app
# Everything that is written lies below this one folder: the root file system may be read-only.
RUN install -d -o 65532 -g 65532 -m 0700 /var/lib/bertd
ENV PATH=/app/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/var/lib/bertd \
    HF_HOME=/var/lib/bertd/hub \
    BERTD_SERVER=/var/lib/bertd/run/admin.sock
USER 65532:65532
WORKDIR /var/lib/bertd
VOLUME /var/lib/bertd
EXPOSE 50051 50052 9464
ENTRYPOINT ["bertd"]
CMD ["serve", "--state-dir", "/var/lib/bertd/state", "--listen", "0.0.0.0:50051", \
     "--health", "0.0.0.0:50052", "--metrics", "0.0.0.0:9464"]
