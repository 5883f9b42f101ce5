# The image that README's Kubernetes section names: docker build -t satray:0.1.0 .
# What it runs is in the runtime lock; the code is in /satray.
FROM python:3.12.11-slim-bookworm

# wget: KubeRay's probes; libexpat1: GDAL, in rasterio's wheel.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libexpat1 wget \
    && rm -rf /var/lib/apt/lists/*

COPY requirements.lock /tmp/requirements.lock
RUN pip install --no-cache-dir --disable-pip-version-check --require-hashes -r /tmp/requirements.lock

# Without rights on the machine or on its own code; Ray's sessions go to /tmp, its token to the home.
RUN useradd --create-home --uid 1000 satray
WORKDIR /satray
COPY jobs jobs
COPY satray satray
RUN python -m compileall -q satray jobs
ENV PYTHONPATH=/satray RAY_AUTH_MODE=token
USER satray
CMD ["python", "jobs/score.py", "--help"]
