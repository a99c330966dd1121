# vLLM's own image with halu in it, for deploy/vllm.yaml. Written with care; it has not been built
# yet.
#
#   docker build -f deploy/vllm.Dockerfile -t halu-vllm:0.1.0 .

FROM vllm/vllm-openai:v0.32.0
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE NOTICE ./
COPY halu halu
COPY decoders decoders
COPY detectors detectors
COPY eval eval
COPY service service
# vLLM's pins stay: halu's bounds are wider.
RUN python3 -m pip install --no-cache-dir '.[serve]'
