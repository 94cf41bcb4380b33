"""The job on engines other than the embedded one, from an object store, and installed alone."""

import contextlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time

import boto3
import psutil
import pytest
from test_resume import FLAGS, add_slow_images, commits
from test_webdataset import write_shard
from workplace import Workplace, jpeg

import beam_runner

pytestmark = pytest.mark.slow

REPOSITORY = pathlib.Path(beam_runner.__file__).parent
SPLITS = ("--num_shards=4", "--splits=train=0.8,eval=0.2")
MODULES = {
    "job": "apache_beam.runners.portability.local_job_service_main",
    "pool": "apache_beam.runners.worker.worker_pool_main",
}


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def wait_until(condition, process, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        assert process.poll() is None, f"it ended with {process.returncode}"
        time.sleep(0.02)


def answers(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def end(process):
    """Kills a process that a test has started, and those that it has started itself."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
    process.kill()
    process.wait(timeout=30)


@contextlib.contextmanager
def server(folder, *command, port, python=sys.executable):
    """A server that is started, awaited, and ended with all its children."""
    bin_path = f"{pathlib.Path(python).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": bin_path, "PYTHONPATH": str(REPOSITORY)}
    if python != sys.executable:
        del environment["PYTHONPATH"]  # it has what it needs
    with (folder / f"server-{port}.log").open("wb") as log:
        process = subprocess.Popen(
            [python, "-m", *command], cwd=folder, env=environment, stdout=log, stderr=log
        )
        try:
            wait_until(lambda: answers(port), process)
            yield process
        finally:
            end(process)


class Engine:
    """Beam's job service with a worker pool beside it."""

    def __init__(self, folder, workers_python=sys.executable):
        self.port, pool_port = free_port(), free_port()
        self.flags = [
            "--runner=PortableRunner",
            f"--job_endpoint=localhost:{self.port}",
            "--environment_type=EXTERNAL",
            f"--environment_config=localhost:{pool_port}",
        ]
        pool = (MODULES["pool"], f"--service_port={pool_port}")
        self._pool = server(folder, *pool, port=pool_port, python=workers_python)
        self._service = server(folder, MODULES["job"], f"--port={self.port}", port=self.port)

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._pool)
            self.process = stack.enter_context(self._service)
            self._servers = stack.pop_all()
        return self

    def __exit__(self, *problem):
        self._servers.close()


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    with Engine(tmp_path_factory.mktemp("engine")) as started:
        yield started


def run(workplace, *flags, split="train", environment=None, **options):
    """The command in a process of its own, as (exit code, its output and error)."""
    finished = subprocess.run(
        [
            sys.executable,
            beam_runner.__file__,
            *workplace.arguments(*flags, split=split, **options),
        ],
        cwd=workplace.root,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=180,
    )
    return finished.returncode, finished.stdout, finished.stderr


def test_the_portable_runner_writes_the_same_bytes(workplace, engine):
    workplace.write_labels([*workplace.add_images(60), "0.jpg,dog", "absent.jpg,cat"])
    flags = [*SPLITS, "--max_failure_rate=0.2", "--max_classes=3"]  # which is surveyed first
    without = ("split", "classes")
    assert workplace.run(*flags, without=without) == 0
    expected = [workplace.shards("train"), workplace.shards("eval")]
    assert [len(shards) for shards in expected] == [4, 4]
    for name, more in (("external", engine.flags), ("loopback", ["--environment_type=LOOPBACK"])):
        workplace.output = workplace.root / name
        code, output, error = run(workplace, *flags, *engine.flags[:2], *more, without=without)
        assert code == 0, error
        assert "split 'train' is complete" in output
        assert [workplace.shards("train"), workplace.shards("eval")] == expected
        assert not list(workplace.output.rglob("*.tmp"))


def test_on_the_portable_runner_too_many_failures_end_with_code_3(workplace, engine):
    workplace.write_labels([*workplace.add_images(8), "absent.jpg,cat"])
    code, _, error = run(workplace, *engine.flags)
    assert code == 3
    assert error.splitlines()[-1].startswith("beam_runner.py: 11.11% of 9 images are lost")
    assert "Traceback" not in error


def test_on_the_portable_runner_what_fails_is_said_in_words_and_goes_on_later(workplace, engine):
    workplace.write_labels(workplace.add_images(6))
    obstacle = workplace.output / "commits/train/00001-of-00003.json"
    obstacle.mkdir(parents=True)
    code, _, error = run(workplace, "--num_shards=3", *engine.flags)
    assert code == 75
    assert "beam_runner.py: cannot write" in error
    assert "Traceback" not in error
    obstacle.rmdir()
    code, _, error = run(workplace, "--num_shards=3", *engine.flags)
    assert code == 0, error
    assert not list(workplace.output.rglob("*.tmp"))


def test_a_job_service_that_is_not_there_is_a_wrong_address(workplace):
    workplace.write_labels(workplace.add_images(1))
    endpoint = f"localhost:{free_port()}"
    started = time.monotonic()
    code, _, error = run(
        workplace, "--runner=PortableRunner", f"--job_endpoint={endpoint}",
        "--environment_type=LOOPBACK",
    )  # fmt: skip
    assert code == 2
    assert f"--job_endpoint={endpoint}: no job service has answered in 20 s" in error
    assert "Traceback" not in error
    assert time.monotonic() - started < 60


def test_a_job_may_last_longer_than_the_timeout_of_its_service(workplace, engine):
    add_slow_images(workplace, 60)
    code, _, error = run(workplace, *FLAGS, *engine.flags, "--job_server_timeout=1")
    assert code == 0, error


def test_a_job_service_that_dies_ends_the_run_and_the_next_goes_on(workplace):
    add_slow_images(workplace, 60)
    with Engine(workplace.root) as engine:
        command = [
            sys.executable,
            beam_runner.__file__,
            *workplace.arguments(*FLAGS, *engine.flags),
        ]
        launcher = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            wait_until(lambda: commits(workplace), launcher)
            end(engine.process)
            _, error = launcher.communicate(timeout=60)
        finally:
            end(launcher)
    assert launcher.returncode == 75, error
    assert "beam_runner.py: the job service is gone: " in error
    assert "Traceback" not in error
    assert workplace.run(*FLAGS) == 0
    assert not list(workplace.output.rglob("*.tmp"))


def checked(*command, folder):
    """The output of a command that must end well."""
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    finished = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    if "No matching distribution" in finished.stderr and "Connection" in finished.stderr:
        pytest.skip("the package registry cannot be reached")
    assert finished.returncode == 0, finished.stdout[-2000:] + finished.stderr[-2000:]
    return finished.stdout


@pytest.fixture(scope="module")
def source_archive(tmp_path_factory):
    """What Dataflow stages for --setup_file=./setup.py, made in a copy of the repository."""
    folder = tmp_path_factory.mktemp("source") / "copy"
    leave_out = shutil.ignore_patterns(".*", "*.egg-info", "build", "demo", "__pycache__")
    shutil.copytree(REPOSITORY, folder, ignore=leave_out)
    checked(sys.executable, "setup.py", "-q", "sdist", folder=folder)
    (archive,) = (folder / "dist").iterdir()
    return archive


def test_the_source_archive_holds_every_module_and_template(source_archive):
    with tarfile.open(source_archive) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    files = {
        str(path.relative_to(REPOSITORY))
        for package in ("pipeline", "model", "eval")
        for path in (REPOSITORY / package).rglob("*")
        if path.suffix in (".py", ".toml") or path.parent.name == "templates"
    }
    assert files | {"beam_runner.py", "setup.py"} <= held


@pytest.fixture(scope="module")
def installed(source_archive, tmp_path_factory):
    """The Python that has the archive and nothing else, as a worker of Dataflow installs it."""
    folder = tmp_path_factory.mktemp("far")
    checked(sys.executable, "-m", "venv", "env", folder=folder)
    python = str(folder / "env/bin/python")
    constraints = str(REPOSITORY / "requirements.lock")
    install = ("-q", "-c", constraints, str(source_archive))
    if uv := shutil.which("uv"):
        checked(uv, "pip", "install", "--python", python, *install, folder=folder)
    else:
        checked(python, "-m", "pip", "install", *install, folder=folder)
    return python


def test_the_base_install_alone_writes_the_same_bytes(workplace, installed):
    folder = workplace.root / "far"
    folder.mkdir()
    found = checked(installed, "-m", "pip", "list", "--format=freeze", folder=folder).lower()
    assert "apache-beam==" in found
    assert "tensorflow==" not in found
    assert "keras==" not in found

    workplace.write_labels(workplace.add_images(12))
    assert workplace.run("--num_shards=3") == 0
    expected = workplace.shards()
    workplace.output = workplace.root / "installed"
    flags = workplace.arguments("--num_shards=3", "--workers=2")
    output = checked(installed, "-m", "beam_runner", *flags, folder=folder)
    assert "pip install" in output  # what the report would need
    assert workplace.shards() == expected


def test_workers_need_no_more_than_the_base_install(workplace, installed):
    workplace.write_labels(workplace.add_images(12))
    assert workplace.run("--num_shards=3") == 0
    expected = workplace.shards()
    workplace.output = workplace.root / "by_others"
    with Engine(workplace.root, installed) as engine:
        code, _, error = run(workplace, "--num_shards=3", *engine.flags)
    assert code == 0, error
    assert workplace.shards() == expected


class Bucket:
    """A bucket of an S3 server on this machine, beside a workplace of the same files."""

    def __init__(self, client, environment):
        self._client = client
        self.environment = environment  # of the processes that reach it

    def put(self, folder):
        for path in folder.rglob("*"):
            if path.is_file():
                self._client.upload_file(str(path), "photographs", str(path.relative_to(folder)))

    def names(self, prefix):
        """Every object below a prefix, by the rest of its name."""
        pages = self._client.get_paginator("list_objects_v2")
        found = pages.paginate(Bucket="photographs", Prefix=prefix)
        keys = [item["Key"] for page in found for item in page.get("Contents", [])]
        return [key.removeprefix(prefix) for key in keys]

    def read(self, key):
        return self._client.get_object(Bucket="photographs", Key=key)["Body"].read()

    def shards(self):
        """Bytes of the shards by file name."""
        names = [name for name in self.names("out/") if name.startswith("images-")]
        return {name: self.read(f"out/{name}") for name in names}


@pytest.fixture
def bucket(tmp_path):
    port = free_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "anyone",
        "AWS_SECRET_ACCESS_KEY": "anything",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with server(tmp_path, "moto.server", "-H", "127.0.0.1", "-p", str(port), port=port):
        client = boto3.client(
            "s3",
            endpoint_url=environment["AWS_ENDPOINT_URL"],
            aws_access_key_id="anyone",
            aws_secret_access_key="anything",
            region_name="us-east-1",
        )
        client.create_bucket(Bucket="photographs")
        yield Bucket(client, environment)


def in_bucket(**more):
    """The flags of a run that reads from the bucket and writes to it."""
    places = {"labels": "train.csv", "images": "images", "output": "out", "classes": "classes.tsv"}
    return [f"--{flag}=s3://photographs/{place}" for flag, place in (places | more).items()]


def test_a_killed_run_in_an_object_store_goes_on_and_writes_the_same_bytes(workplace, bucket):
    workplace.write_labels(workplace.add_images(40))
    bucket.put(workplace.root)
    flags = ["--num_shards=50"]  # some are empty
    assert workplace.run(*flags) == 0
    command = [sys.executable, beam_runner.__file__, *workplace.arguments(*flags, *in_bucket())]
    environment = {**os.environ, **bucket.environment}
    launcher = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        wait_until(lambda: len(bucket.names("out/images-")) > 5, launcher)
    finally:
        os.killpg(launcher.pid, signal.SIGKILL)
        launcher.wait(timeout=30)
    assert "train.completed.json" not in bucket.names("out/")

    for ending in ("is complete", "is already complete"):
        code, output, error = run(workplace, *flags, *in_bucket(), environment=bucket.environment)
        assert code == 0, error
        assert f"split 'train' {ending}" in output
    assert bucket.shards() == workplace.shards()
    assert b"<html" in bucket.read("out/report.html")
    assert not [name for name in bucket.names("out/") if name.endswith(".tmp")]
    verified = subprocess.run(
        [sys.executable, "-m", "pipeline.verify", "s3://photographs/out"],
        cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert "is sound: 40 examples in 50 shards" in verified.stdout, verified.stderr


def test_tar_members_are_read_where_they_lie_in_an_object_store(tmp_path, bucket):
    workplace = Workplace(tmp_path)
    for shard in range(2):
        members = []
        for index in range(10):
            members.append((f"{shard}{index}.jpg", jpeg(seed=shard * 10 + index)))
            members.append((f"{shard}{index}.json", {"labels": ["cat", "animal"]}))
        write_shard(workplace.images / f"{shard:05d}.tar", members)
    bucket.put(workplace.root)
    flags = ["--source=webdataset", "--labels_column=labels", "--num_shards=3"]
    without = ("labels", "source", "images")
    assert workplace.run(*flags, f"--images={workplace.images}/*.tar", without=without) == 0
    there = [flag for flag in in_bucket(images="images/*.tar") if not flag.startswith("--labels=")]
    more = ["--workers=2", *there]
    code, _, error = run(workplace, *flags, *more, without=without, environment=bucket.environment)
    assert code == 0, error
    assert len(bucket.shards()) == 3
    assert bucket.shards() == workplace.shards()
