# gpu-backprop on CUDA devices: Linux with NVIDIA's driver and its container toolkit, and nothing else of CUDA.
#
#     docker build --file docker/cuda.Dockerfile --tag gpu-backprop:cuda .
#     docker run --rm --gpus all --volume "$PWD:/work" --user "$(id -u):$(id -g)" gpu-backprop:cuda doctor
#
# --build-arg CUDA=cuda12 is for drivers before 580, and for V100. What CuPy compiles lies in /home/user, which
# --volume gpu-backprop:/home/user keeps for the next container.
#
# Python's image with NVIDIA's packages of PyPI: cuBLAS, NVRTC, the runtime and the headers are all that is needed. Those
# images of nvidia/cuda that have headers have the whole toolkit with its compilers, and no Python.
FROM python:3.13-slim-trixie AS build
WORKDIR /checkout
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /dist .

FROM python:3.13-slim-trixie
ARG CUDA=cuda13
RUN --mount=from=build,source=/dist,target=/dist \
    pip install --no-cache-dir "$(echo /dist/*.whl)[$CUDA,plot,data,lbfgs,sklearn]" \
    && useradd --create-home --uid 1000 user && mkdir /work && chmod 1777 /home/user /work
# whoever runs it, with --user too, may write into both
USER 1000
# what the container toolkit hands in: nvidia/cuda's images say the same
ENV HOME=/home/user NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /work
HEALTHCHECK NONE
ENTRYPOINT ["gpu-backprop"]
CMD ["--help"]
