# jointrt on the CPU: docker build -f docker/cpu.Dockerfile -t jointrt . && docker run --rm -v "$PWD:/data" jointrt run ...
FROM python:3.12-slim-bookworm AS wheel
WORKDIR /src
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim-bookworm
COPY --from=wheel /wheels /wheels
COPY constraints.txt /wheels/
# The image has no libGL, which opencv-python asks for.
RUN pip install --no-cache-dir -c /wheels/constraints.txt "$(echo /wheels/jointrt-*.whl)[cpu]" \
    && pip uninstall --yes opencv-python \
    && pip install --no-cache-dir opencv-python-headless==5.0.0.93 \
    && useradd --create-home --uid 10001 jointrt
USER 10001
WORKDIR /data
ENTRYPOINT ["jointrt"]
CMD ["--help"]
