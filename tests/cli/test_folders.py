"""Work dirs that are used, full or not ours: one line, and nothing is touched."""

import errno
import os

import pytest
from mmengine.config import Config

from gcvit_mm import UserError, cli
from gcvit_mm.cli.preflight import check_unused, check_writable
from gcvit_mm.messages import explain


def config(folder, **changes):
    """As much of a config as is looked at."""
    return Config(dict(work_dir=str(folder), load_from=None, **changes))


def test_used_folder_is_refused(tmp_path, monkeypatch):
    """A new run would replace the checkpoints of the one before, name by name."""
    check_unused(config(tmp_path))
    (tmp_path / 'epoch_3.pth').write_text('precious')
    with pytest.raises(UserError, match='epoch_3.pth is of an earlier run.*--resume.*--work-dir'):
        check_unused(config(tmp_path))
    check_unused(config(tmp_path, resume=True))
    monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', '1')
    check_unused(config(tmp_path))


def test_full_disk_is_seen_before_training(tmp_path, monkeypatch):
    """Before anything is built; folders that are not there yet are not made for that."""
    check_writable(str(tmp_path / 'a' / 'b'))
    assert os.listdir(tmp_path) == []

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(UserError, match=r'work/a cannot be written \(No space left on device\): '):
        check_writable(str(tmp_path / 'work' / 'a'))
    assert os.listdir(tmp_path) == []


def test_nothing_to_resume_from(tmp_path, monkeypatch):
    """A run is asked to go on with one that is not there; what was started again may begin."""
    with pytest.raises(UserError, match='--resume: .* has no checkpoint: leave --resume out'):
        check_unused(config(tmp_path / 'misspelt', resume=True))
    check_unused(Config(dict(work_dir=str(tmp_path), load_from='iter_6.pth', resume=True)))
    (tmp_path / 'last_checkpoint').write_text('elsewhere/iter_6.pth')
    check_unused(config(tmp_path, resume=True))
    for name in ('TORCHELASTIC_RESTART_COUNT', 'SLURM_RESTART_COUNT'):
        with monkeypatch.context() as patch:
            patch.setenv(name, '1')
            check_unused(config(tmp_path / 'new', resume=True))


def test_file_in_the_place_of_a_folder(tmp_path):
    """It is said to be one."""
    (tmp_path / 'notes.txt').touch()
    with pytest.raises(UserError, match=r'notes.txt is a file: name a folder'):
        check_writable(str(tmp_path / 'notes.txt'))


def test_folder_that_is_none(tmp_path):
    """A file stands where a folder must be made."""
    (tmp_path / 'file').touch()
    with pytest.raises(UserError, match=r'file/run cannot be written \(Not a directory\)'):
        check_writable(str(tmp_path / 'file' / 'run'))


@pytest.mark.skipif(os.geteuid() == 0, reason='the super-user may write anywhere')
def test_read_only_folder(tmp_path):
    """The rights of a folder."""
    tmp_path.chmod(0o555)
    with pytest.raises(UserError, match=r'cannot be written \(Permission denied\)'):
        check_writable(str(tmp_path / 'run'))


@pytest.mark.parametrize('number', [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_what_the_system_says_is_bad_input(number):
    """Wherever it shows: one line and status 2, with the file where that is known."""
    line, status = explain(OSError(number, os.strerror(number), '/folder/file'))
    assert status == 2 and line.startswith(f'/folder/file: {os.strerror(number)}: make space')
    assert explain(OSError(number, os.strerror(number)))[1] == 2


def test_full_log_is_one_line(tmp_path, capfd, monkeypatch):
    """A log that cannot be written does not add a traceback for each of its lines."""
    import logging

    monkeypatch.setattr(logging, 'raiseExceptions', True)
    handler = logging.FileHandler('/dev/full')
    logger = logging.Logger('full')
    logger.addHandler(handler)

    def main():
        logger.error('something')
        raise UserError('the end')

    with pytest.raises(SystemExit):
        cli.run_tool(main)
    assert capfd.readouterr().err == 'error: the end\n'
