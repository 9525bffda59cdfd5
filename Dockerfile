# LoRA Loom in a container. Start it with compose.yaml, or by hand:
#   docker build -t lora-loom .
#   docker run --init -p 127.0.0.1:7860:7860 -e LOOM_USERNAME=me -e LOOM_PASSWORD=... -v ./workspace:/workspace lora-loom
FROM python:3.12-slim

# bitsandbytes and scikit-learn look for the system's OpenMP.
RUN apt-get update \
 && apt-get install -y --no-install-recommends libgomp1 \
 && rm -rf /var/lib/apt/lists/*

# The files in the mounted folders belong to this user, so give it the number of yours (`id -u`).
ARG UID=1000
RUN useradd --create-home --uid "$UID" loom \
 && install --directory --owner=loom /opt/lora-loom /workspace
USER loom
WORKDIR /opt/lora-loom

# The packages come first: a changed source line does not install them again.
# Empty takes the usual build of PyTorch, which knows NVIDIA cards; another address gives ROCm or a small CPU build.
ARG TORCH_INDEX_URL=
COPY --chown=loom launch.py pyproject.toml constraints.txt ./
RUN PIP_NO_CACHE_DIR=1 python launch.py setup ${TORCH_INDEX_URL:+--torch-index-url "$TORCH_INDEX_URL"}
COPY --chown=loom . .

# Runs, presets, models, data sets and downloads.
ENV LOOM_WORKSPACE=/workspace HF_HOME=/workspace/cache/huggingface
VOLUME /workspace
EXPOSE 7860
HEALTHCHECK --start-period=60s \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:7860/loom/alive', timeout=5)"]

# Listening beyond the container needs LOOM_USERNAME and LOOM_PASSWORD in its environment.
CMD ["python", "launch.py", "--listen", "0.0.0.0"]
