# NGC's PyTorch image brings torch, Transformer Engine, flash-attn and apex, built for each other; this
# adds what is missing and leaves those alone.
#
#   docker build -t megatron_speech .
#   docker run --gpus all --rm megatron_speech                  # says what was found
#   docker run --gpus all --ipc=host --ulimit memlock=-1 -v "$PWD":/workspace -w /workspace --rm -it megatron_speech bash
ARG BASE=nvcr.io/nvidia/pytorch:26.06-py3
FROM ${BASE}

# Extras of setup.py to install too, separated by spaces.
ARG EXTRAS="cluster"
ARG PIP_NO_CACHE_DIR=1
# NGC images hold pip to a list of versions of their own. Ours, written below, holds it to what is
# compiled; it stays in force, so that no later `pip install` changes the image's torch either.
ENV PIP_CONSTRAINT=/opt/image/constraints.txt \
    PIP_BREAK_SYSTEM_PACKAGES=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore

RUN useradd --uid 10001 --create-home --shell /bin/bash speech \
    && install --directory --owner=speech /opt/megatron_speech
WORKDIR /opt/megatron_speech

COPY docker/image_packages.py setup.py constraints-ngc.txt /opt/image/
# hadolint ignore=DL3042
RUN PIP_CONSTRAINT='' python /opt/image/image_packages.py plan --folder /opt/image --extras ${EXTRAS} \
    && python -m pip install --requirement /opt/image/requirements.txt \
    && python /opt/image/image_packages.py check --folder /opt/image \
    && python -c "import site; print('/opt/megatron_speech', file=open(site.getsitepackages()[0] + '/megatron_speech.pth', 'w'))"

USER 10001
COPY --chown=10001 . .
CMD ["python", "tools/doctor.py"]
