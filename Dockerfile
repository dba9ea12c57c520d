# The toolchain on a CPU; without words it runs the quickstart (minutes on two cores). Results lie in runs/ of this folder:
#
#   docker build -t autoformer .
#   docker run --rm --shm-size 1g -v "$PWD/runs:/work/runs" autoformer
#   docker run --rm --shm-size 1g -v "$PWD/runs:/work/runs" -v "$PWD/photos:/photos:ro" autoformer run --data /photos --max-latency 60%
FROM python:3.12-slim

# torch without CUDA, which an image for CPUs has no use for; what follows then keeps it
RUN pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu torch torchvision

WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY autoformer ./autoformer
COPY export ./export
COPY profiling ./profiling
COPY cli ./cli
COPY recipes ./recipes
RUN pip install --no-cache-dir .

RUN useradd --create-home --uid 1000 someone && install --directory --owner someone /work /work/runs
USER someone
WORKDIR /work
ENTRYPOINT ["autoformer"]
CMD ["run", "quickstart", "--out", "runs/quickstart"]
