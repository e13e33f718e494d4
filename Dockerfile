# An image with all that the programs need, and the programs (docs/cluster.md, "In containers"):
#   docker build --tag sat .
#   docker build --tag sat-gpu --build-arg GPU=1 .
# BASE is a Debian 12 or 13; TENSORFLOW chooses as in `make setup`. The steps' commands are in containers/install.sh.
ARG BASE=debian:13-slim

# With compilers. What is copied first changes least: a changed Python file builds neither Horovod nor libraries anew.
FROM ${BASE} AS build
ARG GPU=0
ARG TENSORFLOW=
WORKDIR /opt/smooth-adversarial-training
COPY constraints constraints
COPY requirements.txt requirements-test.txt ./
COPY scripts/setup.sh scripts/horovod_wheel.py scripts/cuda_wheels.py scripts/
COPY scripts/horovod_gpu scripts/horovod_gpu
COPY containers/install.sh containers/
RUN containers/install.sh environment
COPY third_party/zmq_ops/*.cc third_party/zmq_ops/*.h third_party/zmq_ops/Makefile third_party/zmq_ops/
COPY native/smooth_ops/*.cc native/smooth_ops/*.h native/smooth_ops/Makefile native/smooth_ops/
COPY native/jpeg_part/*.c native/jpeg_part/Makefile native/jpeg_part/
COPY native/resampling/*.c native/resampling/Makefile native/resampling/
RUN containers/install.sh compile

FROM ${BASE}
WORKDIR /opt/smooth-adversarial-training
COPY containers/install.sh containers/
RUN containers/install.sh programs
COPY --from=build /opt/venv /opt/venv
COPY . .
COPY --from=build /opt/compiled /opt/compiled
RUN containers/install.sh finish

ENV PATH=/opt/smooth-adversarial-training/containers/bin:/opt/venv/bin:$PATH
# Root is what an image's user is unless told otherwise, and Open MPI refuses root unless told twice.
ENV OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
# What NVIDIA's container runtime brings in: its driver; CUDA's libraries are in /opt/venv.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
# Where `docker run` puts the user's folder: --volume "$PWD":/work
WORKDIR /work
ENTRYPOINT ["/opt/smooth-adversarial-training/containers/run.sh"]
