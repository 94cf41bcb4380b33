"""Packages, dependencies and extras; also what Dataflow workers install (--setup_file=./setup.py).

The base install is the pipeline alone, so that a Beam worker never downloads TensorFlow:

    pip install -c requirements.lock -e .            # the pipeline
    pip install -c requirements.lock -e '.[report]'  # and its data report
    pip install -c requirements.lock -e '.[all]'     # pipeline, trainer and evaluator
    pip install -c requirements.lock -e '.[test]'    # everything, and what the tests need
    pip install -c requirements.lock -e '.[bench]'   # everything, and the peers in benchmarks/

Versions that decide bytes or numbers are pinned here; `requirements.lock` pins the rest.
"""

from setuptools import find_packages, setup

PIPELINE = [
    "apache-beam==2.77.0",  # the job and its runners; pickling of DoFns changes between versions
    "google-crc32c>=1.7",  # TFRecord checksums in C: 1000 times faster than Beam in Python
    "numpy>=2.4,<2.5",  # label ids, class counts, pixels
    "simplejpeg==1.9.0",  # strict scaled JPEG decoding and encoding; decides the bytes of a shard
    "opencv-python-headless==5.0.0.93",  # cubic resize; decides the bytes of a shard
    "pillow==12.3.0",  # every format that is not JPEG, EXIF, the synthetic scenes; decides bytes
    "pyarrow>=20",  # Parquet, and rows as columns; Beam depends on it as well
    "urllib3>=2.6",  # images over http(s): pooled connections whose address is checked
    "etils[epath]>=1.12",  # one Path for local folders and object stores (what TFDS uses)
    "tensorflow-datasets==4.9.10",  # the metadata that makes the output a TFDS dataset
]
TRAIN = [
    "tensorflow==2.21.0",  # the parameter servers, the input pipeline, the kernels
    "keras==3.15.1",  # the networks' definitions; decides layer names and initial weights
    "tomli-w>=1.2",  # writes the resolved configuration; Python reads TOML but does not write it
    "safetensors>=0.6",  # checkpoints: no pickle, refuses a truncated file, readable without us
    "fsspec",  # shards in object stores; etils brings it along
]
REPORT = [
    "matplotlib>=3.10",  # the reports' figures, as SVG inside the page
    "jinja2>=3.1",  # the reports' pages; escapes every class name and path
]
INDEPENDENT = [
    "scikit-learn>=1.9",  # the independent average precision that ours must equal
    "pytrec_eval-terrier>=0.5.11",  # trec_eval, which D3 must equal; this one comes as a wheel
]
TEST = [
    "pytest>=9",
    "pytest-timeout>=2.4",  # no test waits for ever
    "psutil>=5.9",  # finds the processes that a test has to kill
    "selenium>=4.30",  # drives the browser that the evaluator's page is tested in
    "s3fs",  # a store's real client, for the tests that train from one
    "apache-beam[aws]==2.77.0",  # s3:// in the pipeline, for the tests of its engines
    "moto[s3]>=5.2",  # an S3 on loopback for those
    "flask>=3.1",  # what moto serves it with; its extra `server` brings forty packages more
    "flask-cors>=6",  # the same
    "hypothesis>=6.170",  # draws the scores and labels that a property must hold for
    "ruff==0.17.6",
    "mypy==2.4.1",
]
BENCH = [
    "psutil>=5.9",  # CPU seconds of the processes that are measured
    "scipy>=1.16",  # Student's t, for differences between few runs
    "tf_keras==2.21.0",  # Keras 2, whose trainer and parameter servers are peers in benchmarks/
    "torchmetrics==1.9.0",  # average precision of many labels at once: a peer of the evaluator's
    "torch>=2.12",  # what torchmetrics counts with, here on the CPU
    "ranx==0.3.21",  # trec_eval's MAP@100 in numba: a peer as well; goes with numpy 2.4
]

setup(
    name="xception-at-scale",
    version="0.1.0",
    description="Multi-label image classification with thousands of classes, on clusters",
    python_requires=">=3.11,<3.14",
    packages=find_packages(include=["pipeline*", "model*", "eval*"]),
    py_modules=["beam_runner"],
    package_data={
        "pipeline": ["templates/*"],
        "model": ["presets/*.toml"],
        "eval": ["templates/*"],
    },
    install_requires=PIPELINE,
    extras_require={
        "report": REPORT,
        "train": TRAIN,
        "eval": TRAIN + REPORT,
        "all": TRAIN + REPORT,
        "test": TRAIN + REPORT + INDEPENDENT + TEST,
        "bench": TRAIN + REPORT + INDEPENDENT + BENCH,
        "gcp": ["apache-beam[gcp]==2.77.0", "gcsfs"],  # Dataflow and gs://
        "aws": ["apache-beam[aws]==2.77.0", "s3fs"],  # s3://
    },
)
