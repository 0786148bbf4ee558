# The command pgsrm in a container; runs, figures and the MLflow database go to the folder that is mounted at /work.
#
#   docker build -t pgsrm .
#   docker run --rm -v "$PWD:/work" --user "$(id -u):$(id -g)" pgsrm run task=color ppo.episodes=1000
#
# For GPUs, on a CUDA base; its version is that of the CUDA libraries that torch brings (13.0 for torch 2.13), so that a driver
# that is too old is told when the container starts:
#
#   docker build -t pgsrm:cuda --build-arg BASE=nvidia/cuda:13.0.1-base-ubuntu24.04 .
#   docker run --rm --gpus all -v "$PWD:/work" --user "$(id -u):$(id -g)" pgsrm:cuda run task=color model=gpt2_small
#
# torch comes from where pip finds it: PyPI has the CUDA build, which runs on CPUs too and makes 6 GB of Python packages.
# --build-arg PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu takes the CPU build, 2.3 GB.
#
# docs/clusters.md says what of this was tried.

ARG BASE=python:3.13-slim
FROM ${BASE}

# A CUDA base brings no Python; it decides which one there is.
# hadolint ignore=DL3008
RUN command -v python3 >/dev/null || { \
        apt-get update && apt-get install --yes --no-install-recommends python3 python3-venv && rm -rf /var/lib/apt/lists/*; }

ARG PIP_EXTRA_INDEX_URL=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python3 -m venv /opt/pgsrm
ENV PATH=/opt/pgsrm/bin:$PATH

# What is pinned first: a change of the code leaves this layer as it is.
COPY requirements.lock /src/
RUN pip install -r /src/requirements.lock

COPY pyproject.toml README.md LICENSE /src/
COPY pgsrm /src/pgsrm
COPY launchers /src/launchers
COPY conf /src/conf
RUN pip install --no-deps --no-build-isolation /src && pgsrm --version

# A user that the image does not know has no home, where libraries write caches, and no name, which some ask for.
ENV HOME=/tmp USER=pgsrm
WORKDIR /work
ENTRYPOINT ["pgsrm"]
CMD ["--help"]
