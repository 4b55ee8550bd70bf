import hashlib
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.file_server import FileServer, file_server
from yoloflow.structures import YoloflowError
from yoloflow.weights.download import download

CONTENT = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server() -> Iterator[FileServer]:
    with file_server() as state:
        state.files["/w.ckpt"] = CONTENT
        yield state


def test_a_file_is_downloaded_once_and_its_bytes_are_counted(server: FileServer, tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []
    target = tmp_path / "new" / "w.ckpt"
    for _ in range(2):
        download(f"{server.url}/w.ckpt", target, SHA256[:8], lambda *counts: told.append(counts))
    assert target.read_bytes() == CONTENT
    assert told[0] == (0, len(CONTENT))
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert len(server.ranges) == 1
    assert [path.name for path in target.parent.iterdir()] == ["w.ckpt"]


@pytest.mark.parametrize("takes_ranges", [True, False])
@pytest.mark.parametrize("says_length", [True, False])
def test_a_download_that_broke_off_goes_on(
    server: FileServer, tmp_path: Path, takes_ranges: bool, says_length: bool
) -> None:
    server.break_after, server.takes_ranges = 300_000, takes_ranges
    target = tmp_path / "w.ckpt"
    with pytest.raises(YoloflowError, match=r"broke off after 300,000 of 1,024,000 bytes; the same command"):
        download(f"{server.url}/w.ckpt", target, SHA256[:8])
    assert not target.exists()
    server.break_after, server.says_length = None, says_length
    download(f"{server.url}/w.ckpt", target, SHA256[:8])
    assert target.read_bytes() == CONTENT
    assert server.ranges == ["", "bytes=300000-"]


def test_a_part_that_is_already_whole_is_taken(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "w.ckpt.part").write_bytes(CONTENT)
    download(f"{server.url}/w.ckpt", tmp_path / "w.ckpt", SHA256[:8])
    assert (tmp_path / "w.ckpt").read_bytes() == CONTENT


def test_a_wrong_hash_leaves_nothing(server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(YoloflowError, match=rf"SHA-256 {SHA256[:16]}.*begin with 01234567; it was deleted"):
        download(f"{server.url}/w.ckpt", tmp_path / "w.ckpt", "01234567")
    assert list(tmp_path.iterdir()) == []


def test_a_part_of_another_file_is_thrown_away_and_the_next_try_succeeds(
    server: FileServer, tmp_path: Path
) -> None:
    (tmp_path / "w.ckpt.part").write_bytes(b"<html>" * 100)
    with pytest.raises(YoloflowError, match="Try again"):
        download(f"{server.url}/w.ckpt", tmp_path / "w.ckpt", SHA256[:8])
    download(f"{server.url}/w.ckpt", tmp_path / "w.ckpt", SHA256[:8])
    assert (tmp_path / "w.ckpt").read_bytes() == CONTENT


def test_an_absent_file_is_the_server_s_answer(server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(YoloflowError, match=r"/other.ckpt: the server answers 404 Not Found"):
        download(f"{server.url}/other.ckpt", tmp_path / "w.ckpt", SHA256[:8])


def test_no_server_and_no_network_are_said_with_the_way_out(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(YoloflowError, match=r"cannot be reached \(.*refused.*https_proxy.*weight=FILE"):
        download(f"http://127.0.0.1:{port}/w.ckpt", tmp_path / "w.ckpt", SHA256[:8])


def test_other_addresses_than_of_the_web_are_refused(tmp_path: Path) -> None:
    with pytest.raises(YoloflowError, match="only addresses that begin with http"):
        download(Path(__file__).as_uri(), tmp_path / "w.ckpt", SHA256[:8])


def test_a_full_disk_keeps_what_has_come(server: FileServer, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # A limit on the size of files stops a write as a full disk does.
    resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, before[1]))
    try:
        with pytest.raises(YoloflowError, match=r"cannot be written \(.*\); make room there.*XDG_CACHE_HOME"):
            download(f"{server.url}/w.ckpt", tmp_path / "w.ckpt", SHA256[:8])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (tmp_path / "w.ckpt.part").stat().st_size > 0
    download(f"{server.url}/w.ckpt", tmp_path / "w.ckpt", SHA256[:8])
    assert (tmp_path / "w.ckpt").read_bytes() == CONTENT


def test_a_folder_that_cannot_be_made_is_named(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(YoloflowError, match=r"file/w.ckpt: cannot be written"):
        download(f"{server.url}/w.ckpt", tmp_path / "file" / "w.ckpt", SHA256[:8])
