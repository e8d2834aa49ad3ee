# jointrt on a GPU, through PyTorch and TensorRT: docker run --rm --gpus all -v "$PWD:/data" jointrt-cuda run ... --device cuda
FROM python:3.12-slim-bookworm AS wheel
WORKDIR /src
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM nvidia/cuda:13.0.1-base-ubuntu24.04
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# Versions of Debian's packages follow the base image.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-pip python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/jointrt
ENV PATH=/opt/jointrt/bin:$PATH
COPY --from=wheel /wheels /wheels
# The image has no libGL, which opencv-python asks for.
RUN pip install --no-cache-dir "$(echo /wheels/jointrt-*.whl)[gpu,tensorrt]" \
    && pip uninstall --yes opencv-python \
    && pip install --no-cache-dir opencv-python-headless==5.0.0.93 \
    && useradd --create-home --uid 10001 jointrt
USER 10001
WORKDIR /data
ENTRYPOINT ["jointrt"]
CMD ["--help"]
