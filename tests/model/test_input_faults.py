"""What goes wrong with the shards in the middle of training ends it in words, and costs no step."""

import shutil
import threading

import pytest

from benchmarks.fault_rows import TINY, read_steps, wait_until
from model import checkpoint, train

SETTINGS = (
    *(*TINY, "--set=train.steps_per_closure=1", "--set=train.checkpoint_every=1000"),
    "--set=input.max_damaged_records=0",
)


def _delete(shard):
    shard.unlink()


def _damage(shard):
    data = bytearray(shard.read_bytes())
    data[3000:3003] = b"bad"
    shard.write_bytes(data)


def _let_its_disk_fail(shard):
    shard.unlink()
    shard.symlink_to("/proc/self/mem")  # of which nothing can be read at its start: EIO


@pytest.mark.parametrize(
    ("fault", "exit_code", "says"),
    [
        (_delete, 2, "damaged or gone: {}; No such file or directory. `python -m pipeline.verify`"),
        (_damage, 2, "Damaged records: 1 in {} at byte"),
        (_let_its_disk_fail, 75, "may not when it is tried again: {}; Input/output error"),
    ],
)
def test_a_fault_of_a_shard_ends_training_after_a_checkpoint(
    shards, tmp_path, capfd, fault, exit_code, says
):
    copy, run = tmp_path / "shards", tmp_path / "run"
    shutil.copytree(shards, copy)
    shard = copy / "images-train.tfrecord-00001-of-00003"

    def cause():
        wait_until(lambda: len(read_steps(run)) > 2, "steps", str)
        fault(shard)

    causing = threading.Thread(target=cause)
    causing.start()
    assert train.main([*SETTINGS, f"--data={copy}", f"--workdir={run}"]) == exit_code
    causing.join()
    error = capfd.readouterr().err
    assert says.format(shard) in error
    assert "Traceback" not in error
    (saved,) = checkpoint.list_checkpoints(run)
    assert saved.step >= read_steps(run)[-1] > 0
