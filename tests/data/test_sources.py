"""Where pictures to predict on come from: lists that go on, cameras, threads that read ahead."""

import io
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Generator, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.support.tiny_run import tiny_run, write_images, write_video
from yoloflow.cli import main
from yoloflow.data.read_ahead import read_frames
from yoloflow.data.sources import PathList, open_sources
from yoloflow.detector import Detector, DetectSettings
from yoloflow.predict import PredictSettings, predict
from yoloflow.report.prediction_formats import FORMATS, JsonFormat, Naming, PredictedImage
from yoloflow.report.prediction_writer import PredictionWriter
from yoloflow.structures import Problem, YoloflowError

CPU = PredictSettings(device="cpu", save_images=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run(tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return write_images(tmp_path / "pictures", {f"{k:02d}.png": (40 + k, 64) for k in range(20)})


def test_read_ahead_or_not_the_frames_are_the_same(pictures: Path, tmp_path: Path) -> None:
    write_video(pictures / "07-clip.avi", 5)
    (pictures / "11-text.png").write_text("hello")
    (pictures / "12-broken.mp4").write_bytes(b"no video" * 50)
    sources = [str(pictures)]
    plain_problems: list[Problem] = []
    plain = list(read_frames(open_sources(sources), plain_problems))
    for ahead in (1, 3, 64):
        problems: list[Problem] = []
        frames = list(read_frames(open_sources(sources), problems, ahead))
        assert problems == plain_problems
        assert len(problems) == 2
        for frame, expected in zip(frames, plain, strict=True):
            assert (frame.path, frame.number, frame.fps) == (expected.path, expected.number, expected.fps)
            assert np.array_equal(frame.image, expected.image)


def test_a_list_is_read_line_by_line_and_what_is_missing_is_named(pictures: Path) -> None:
    lines = f"{pictures}/03.png\n\n{pictures}/gone.png\r\n{pictures}\n{pictures}/01.png"
    problems: list[Problem] = []
    # A reader that gives few bytes at a time cuts lines in the middle.
    stream = io.BytesIO(lines.encode())
    frames = list(read_frames([PathList(Few(stream))], problems, ahead=4))
    assert [frame.path.name for frame in frames] == ["03.png", "01.png"]
    assert [Path(problem.file).name for problem in problems] == ["gone.png", "pictures"]


class Few:
    """At most seven bytes at a time."""

    def __init__(self, stream: io.BytesIO) -> None:
        self.stream = stream

    def read(self, size: int, /) -> bytes:
        return self.stream.read(min(size, 7))


def test_predictions_start_before_the_list_ends(run: Path, pictures: Path) -> None:
    read_end, write_end = os.pipe()
    with io.FileIO(read_end) as stream, open(write_end, "wb", buffering=0) as writer:
        detector = Detector.load(run, device="cpu")
        frames = read_frames([PathList(stream)], [], ahead=4)
        results = detector.detect_all(frames, DetectSettings(conf_thres=0.0), batch_size=1)
        for k in range(3):
            writer.write(f"{pictures}/{k:02d}.png\n".encode())
            frame, found = next(results)
            assert frame.path.name == f"{k:02d}.png"
            assert len(found) > 0
        writer.close()
        assert list(results) == []


class Endless:
    """A list of one path again and again; it counts how often it was asked."""

    def __init__(self, path: Path) -> None:
        self.line = f"{path}\n".encode()
        self.asked = 0

    def read(self, size: int, /) -> bytes:
        self.asked += 1
        return self.line


def test_no_more_than_asked_for_is_read_ahead(pictures: Path) -> None:
    for ahead in (0, 6):
        stream = Endless(pictures / "00.png")
        frames = read_frames([PathList(stream)], [], ahead)
        assert len(list(itertools.islice(frames, 10))) == 10
        assert isinstance(frames, Generator)
        frames.close()
        # One waits for room in the queue.
        assert stream.asked <= 10 + ahead + 1


@pytest.mark.process
def test_memory_does_not_grow_with_the_number_of_pictures(run: Path, tmp_path: Path) -> None:
    # Decoded, a picture takes 0.5 MB: 150 of them at once would be 72 MB.
    path = tmp_path / "large.png"
    cv2.imwrite(str(path), np.full((400, 400, 3), 90, np.uint8))
    detector = Detector.load(run, device="cpu")

    def peak_bytes(count: int) -> int:
        stream = Endless(path)
        frames = itertools.islice(read_frames([PathList(stream)], [], ahead=8), count)
        tracemalloc.start()
        formats = ["json", "coco", "yolo"]
        with PredictionWriter(tmp_path / str(count), Naming(detector.names), formats, False) as writer:
            for frame, found in detector.detect_all(frames, DetectSettings(conf_thres=0.3), batch_size=4):
                writer.write(frame, found)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return peak

    few = peak_bytes(30)
    assert 4 * 400 * 400 * 3 < few < 25e6
    assert peak_bytes(150) < few + 2e6


def test_a_camera_gives_numbered_frames_and_one_video(run: Path, tmp_path: Path) -> None:
    # OpenCV opens a file as it opens a camera or a stream.
    source = f"camera:{write_video(tmp_path / 'clip.avi', 9)}"
    settings = replace(CPU, save_images=True, max_images=4, formats=["json", "yolo"])
    done = predict(run, [source], tmp_path / "out", settings)
    rows = json.loads(done.paths["json"].read_text())
    assert [(row["file"], row["frame"], row["picture"]) for row in rows] == [
        (source, k, "clip.mp4") for k in range(4)
    ]
    assert len(list(done.paths["yolo"].rglob("*.txt"))) == 4
    assert done.problems == []
    whole = predict(run, [source], tmp_path / "whole", CPU)
    assert (whole.num_images, [problem.kind for problem in whole.problems]) == (9, ["camera-ended"])


def test_a_camera_that_is_not_there_is_a_clear_error(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for source in ("camera:97", "camera:/nowhere/at/all.mp4"):
        with pytest.raises(YoloflowError, match=f"{source}: there is no such camera.*camera devices here: "):
            predict(run, [source], settings=CPU)
    assert not (run / "predictions").exists()
    assert capfd.readouterr().err == ""  # OpenCV's own warnings say less
    with pytest.raises(YoloflowError, match="which camera"):
        open_sources(["camera:"])


class EndedAtThird(JsonFormat):
    """SIGTERM comes while the third image is written."""

    def write(self, image: PredictedImage) -> None:
        super().write(image)
        if image.stem == "02":
            signal.raise_signal(signal.SIGTERM)


class InterruptedAtThird(JsonFormat):
    """Somebody presses Ctrl-C while the third image is written."""

    count = 0

    def write(self, image: PredictedImage) -> None:
        super().write(image)
        self.count += 1
        if self.count == 3:
            signal.raise_signal(signal.SIGINT)


@pytest.fixture
def _interrupted() -> Iterator[None]:
    FORMATS.update(interrupted=InterruptedAtThird, ended=EndedAtThird)
    # A suite that was started in the background ignores SIGINT.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
    for name in ("interrupted", "ended"):
        del FORMATS[name]


@pytest.mark.usefixtures("_interrupted")
def test_sigterm_ends_a_prediction_with_what_was_done_and_exit_code_143(
    run: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    options = [
        "--format",
        "ended",
        "--save-dir",
        str(tmp_path / "out"),
        "--no-save-images",
        "--device",
        "cpu",
    ]
    monkeypatch.setattr(sys, "argv", ["yoloflow", "predict", str(run), str(pictures), *options])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 143
    assert len(json.loads((tmp_path / "out" / "predictions.json").read_text())) == 3
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.usefixtures("_interrupted")
def test_ctrl_c_ends_a_camera_cleanly_and_other_sources_with_exit_code_130(
    run: Path,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    clip = write_video(tmp_path / "clip.avi", 9)
    for source, expected_code in ((f"camera:{clip}", 0), (str(pictures), 130)):
        out = tmp_path / str(expected_code)
        options = ["--format", "interrupted", "--save-dir", str(out), "--no-save-images", "--device", "cpu"]
        monkeypatch.setattr(sys, "argv", ["yoloflow", "predict", str(run), source, *options])
        with pytest.raises(SystemExit) as end:
            main()
        assert int(end.value.code or 0) == expected_code
        assert len(json.loads((out / "predictions.json").read_text())) == 3
        assert "stopped after 2 images" in caplog.text


def test_the_command_takes_a_list_on_standard_input(
    run: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    (tmp_path / "list.txt").write_text("".join(f"{pictures}/{k:02d}.png\n" for k in (5, 2, 9)))
    arguments = ["yoloflow", "predict", str(run), "-", "--save-dir", str(out), "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", arguments)
    with (tmp_path / "list.txt").open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        with pytest.raises(SystemExit) as end:
            main()
    assert not end.value.code
    rows = json.loads((out / "predictions.json").read_text())
    assert [Path(row["file"]).name for row in rows] == ["05.png", "02.png", "09.png"]


class Camera(BaseHTTPRequestHandler):
    """A camera in the network that breaks off after five images and answers twice."""

    answers = 0

    def do_GET(self) -> None:
        type(self).answers += 1
        if self.answers > 2:
            self.send_error(503)
            return
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        for level in range(5):
            _, image = cv2.imencode(".jpg", np.full((48, 64, 3), 40 * level, np.uint8))
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(image)}\r\n\r\n"
            self.wfile.write(head.encode() + image.tobytes() + b"\r\n")

    def log_message(self, *_: object) -> None:
        pass


def test_a_stream_that_breaks_off_is_opened_again_and_its_address_stays_whole(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("yoloflow.data.sources._WAITS_SECONDS", (0, 0.01))
    with ThreadingHTTPServer(("127.0.0.1", 0), Camera) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/video"
        problems: list[Problem] = []
        frames = list(read_frames(open_sources([address]), problems))
        server.shutdown()
    assert [frame.number for frame in frames] == list(range(10))
    assert {frame.name for frame in frames} == {address}
    assert "broke off after 5 images; it is opened again" in caplog.text
    (problem,) = problems
    assert problem.file == address
    assert problem.detail == "gives no more images after 10, and 2 tries to open it again failed"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("rtsp://127.0.0.1:9/door", "no video stream can be read there: no server answers"),
        ("camera:http://127.0.0.1:9/door", "no video stream can be read there"),
        ("https://127.0.0.1:9/bus.jpg", "images are not fetched from the web; fetch it"),
        ("97", "there is no such camera"),
        ("", "an empty text is no source"),
    ],
)
def test_addresses_and_numbers_are_cameras(source: str, message: str) -> None:
    with pytest.raises(YoloflowError, match=message):
        open_sources([source])


def test_a_file_whose_name_is_a_number_is_that_file(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (pictures / "0").write_bytes((pictures / "00.png").read_bytes())
    monkeypatch.chdir(pictures)
    (frame,) = read_frames(open_sources(["0"]), [])
    assert (frame.name, frame.number) == ("0", None)


def test_a_video_whose_name_is_no_text_is_a_problem_of_that_video(tmp_path: Path) -> None:
    write_video(tmp_path / "b.avi", 2).rename(os.fsdecode(os.fsencode(tmp_path) + b"/a\xff.avi"))
    write_video(tmp_path / "b.avi", 2)
    problems: list[Problem] = []
    frames = list(read_frames(open_sources([str(tmp_path)]), problems))
    assert [frame.path.name for frame in frames] == ["b.avi", "b.avi"]
    assert [problem.kind for problem in problems] == ["unreadable-video"]
    assert "its name is no UTF-8" in problems[0].detail


def test_a_video_that_breaks_off_is_named_and_its_library_prints_nothing(tmp_path: Path) -> None:
    path = tmp_path / "cut.mp4"
    # What every mp4 begins with, and no index of its frames.
    path.write_bytes(b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41" + b"\0\1\0\0mdat" + bytes(200))
    code = (
        "import sys; from yoloflow.data.sources import open_sources, readings\n"
        "print([str(reading().kind) for reading in readings(open_sources(sys.argv[1:]))])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=60, check=True
    )
    assert (done.stdout, done.stderr) == ("['unreadable-video']\n", "")


@pytest.mark.parametrize("source", [".", "*"])
def test_a_link_that_leads_nowhere_is_a_problem_of_that_file(
    pictures: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    for name in ("link.jpg", "link.mp4", "link.txt", ".hidden.jpg"):
        (pictures / name).symlink_to("nowhere")
    monkeypatch.chdir(pictures)
    problems: list[Problem] = []
    assert len(list(read_frames(open_sources([source]), problems))) == 20
    assert [(problem.file, problem.kind) for problem in problems] == [
        ("link.jpg", "unreadable-image"),
        ("link.mp4", "unreadable-video"),
    ]
