# gpu-backprop on a CPU. Its kernels are compiled ahead, so that the image has no compiler.
#
#     docker build --file docker/cpu.Dockerfile --tag gpu-backprop .
#     docker run --rm --volume "$PWD:/work" --user "$(id -u):$(id -g)" gpu-backprop train flowers.csv --target species
FROM python:3.13-slim-trixie AS build
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /checkout
COPY . .
RUN pip install --no-cache-dir . && python bench/prebuilt.py /dist

FROM python:3.13-slim-trixie
RUN --mount=from=build,source=/dist,target=/dist \
    pip install --no-cache-dir "$(echo /dist/*.whl)[plot,data,lbfgs,sklearn]" \
    && useradd --create-home --uid 1000 user && mkdir /work && chmod 1777 /home/user /work
# whoever runs it, with --user too, may write into both
USER 1000
ENV HOME=/home/user
WORKDIR /work
HEALTHCHECK NONE
ENTRYPOINT ["gpu-backprop"]
CMD ["--help"]
