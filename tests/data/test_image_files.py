"""Image files: sizes without decoding, pixels, and files that are not what they seem."""

import sys
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.support.data_sets import write_picture
from yoloflow.data.image_files import _heif_format, decode_image, inspect_image
from yoloflow.structures import YoloflowError

LOSSLESS = {".webp": {"lossless": True}}
SUFFIXES = [".jpg", ".png", ".webp", ".tiff", ".bmp", ".gif"]
MORE_SUFFIXES = [".jfif", ".jpe", ".jp2", ".j2k", ".avif", ".ppm", ".tga", ".apng", ".dib"]
SAVED_AS = {".jfif": "JPEG", ".jpe": "JPEG", ".apng": "PNG", ".dib": "BMP"}


def pillow_bgr(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))[..., ::-1]


def options_of(suffix: str) -> dict[str, Any]:
    return {"format": SAVED_AS.get(suffix), **LOSSLESS.get(suffix, {})}


@pytest.mark.parametrize("suffix", SUFFIXES + MORE_SUFFIXES)
def test_every_format_has_its_size_and_pixels(tmp_path: Path, suffix: str) -> None:
    path = write_picture(tmp_path / f"a{suffix}", 50, 30, **options_of(suffix))
    facts = inspect_image(str(path))
    assert (facts.height, facts.width, facts.problem_kind) == (30, 50, None)
    image = decode_image(str(path))
    assert image.shape == (30, 50, 3)
    assert image.dtype == np.uint8
    assert np.abs(image.astype(int) - pillow_bgr(path)).max() <= 2


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tiff", ".avif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_size_and_pixels_follow_the_exif_rotation(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = write_picture(tmp_path / f"a{suffix}", 50, 30, exif=exif, **LOSSLESS.get(suffix, {}))
    facts = inspect_image(str(path))
    image = decode_image(str(path))
    assert image.shape[:2] == (facts.height, facts.width) == ((30, 50) if orientation < 5 else (50, 30))
    assert np.abs(image.astype(int) - pillow_bgr(path)).max() <= 2


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_samples_are_scaled_and_not_clipped(tmp_path: Path, suffix: str, channels: int) -> None:
    ramp = np.linspace(0, 65535, 40 * 30).reshape(30, 40).astype(np.uint16)
    path = tmp_path / f"deep{suffix}"
    cv2.imwrite(str(path), ramp if channels == 1 else np.dstack([ramp] * 3))
    image = decode_image(str(path))
    assert inspect_image(str(path)).problem_kind is None
    assert np.abs(image - (ramp / 257)[..., None]).max() < 1


def test_a_cmyk_jpeg_keeps_its_colours(tmp_path: Path) -> None:
    rgb = Image.open(write_picture(tmp_path / "rgb.png", 48, 32))
    rgb.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    image = decode_image(str(tmp_path / "cmyk.jpg"))
    assert np.abs(image.astype(int) - pillow_bgr(tmp_path / "cmyk.jpg")).max() <= 3
    assert np.abs(image.astype(int) - pillow_bgr(tmp_path / "rgb.png")).mean() < 4


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA"])
def test_grey_palette_and_alpha_become_three_channels(tmp_path: Path, mode: str) -> None:
    Image.open(write_picture(tmp_path / "rgb.png", 48, 32)).convert(mode).save(tmp_path / "m.png")
    image = decode_image(str(tmp_path / "m.png"))
    assert inspect_image(str(tmp_path / "m.png")).problem_kind is None
    np.testing.assert_array_equal(image, pillow_bgr(tmp_path / "m.png"))


def test_colours_under_transparent_pixels_stay(tmp_path: Path) -> None:
    rgba = np.full((4, 5, 4), 200, np.uint8)
    rgba[..., 3] = 0
    Image.fromarray(rgba).save(tmp_path / "a.png")
    assert (decode_image(str(tmp_path / "a.png")) == 200).all()


def test_an_image_of_one_pixel_is_an_image(tmp_path: Path) -> None:
    path = write_picture(tmp_path / "dot.png", 1, 1)
    facts = inspect_image(str(path))
    assert (facts.height, facts.width, facts.problem_kind) == (1, 1, None)
    assert decode_image(str(path)).shape == (1, 1, 3)


@pytest.mark.parametrize("suffix", SUFFIXES + MORE_SUFFIXES)
def test_a_cut_image_is_found_without_decoding_whole_ones(tmp_path: Path, suffix: str) -> None:
    path = write_picture(tmp_path / f"a{suffix}", 200, 150, **options_of(suffix))
    data = path.read_bytes()
    for share in (0.5, 0.9):
        path.write_bytes(data[: int(len(data) * share)])
        assert inspect_image(str(path)).problem_kind == "truncated-image"
        with pytest.raises(YoloflowError, match="damaged or cut off|breaks off") as error:
            decode_image(str(path))
        assert str(path) in str(error.value)


@pytest.mark.parametrize("padding", [b"\0" * 40, b"\n", b"\r\n", b"maker's trailer" * 40])
def test_bytes_after_the_end_marker_do_no_harm(tmp_path: Path, padding: bytes) -> None:
    path = write_picture(tmp_path / "a.jpg", 64, 48)
    path.write_bytes(path.read_bytes() + padding)
    assert inspect_image(str(path)).problem_kind is None
    assert decode_image(str(path)).shape == (48, 64, 3)


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (b"", "empty-image-file", "zero bytes"),
        (b"hello, I am text", "not-an-image", "not an image"),
        (b"\xff\xd8\xff\xe0", "not-an-image", "begins as JPEG, but breaks off"),
        (b"GIF89a", "not-an-image", "not an image"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "unsupported-image", "HEIC image.*; save it as JPEG"),
    ],
)
def test_a_file_that_is_no_image_is_named(tmp_path: Path, content: bytes, kind: str, message: str) -> None:
    path = tmp_path / "odd.jpg"
    path.write_bytes(content)
    facts = inspect_image(str(path))
    assert facts.problem_kind == kind
    assert facts.detail
    with pytest.raises(YoloflowError, match=message) as error:
        decode_image(str(path))
    assert str(path) in str(error.value)


def test_an_image_under_a_wrong_suffix_is_read_by_its_content(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert inspect_image(str(tmp_path / "a.jpg")).problem_kind is None
    assert decode_image(str(tmp_path / "a.jpg")).shape == (80, 100, 3)


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    assert inspect_image(str(tmp_path / "none.jpg")).problem_kind == "missing-image"
    assert inspect_image(str(tmp_path)).problem_kind == "not-an-image"
    for path in (tmp_path / "none.jpg", tmp_path):
        with pytest.raises(YoloflowError, match="cannot be read"):
            decode_image(str(path))


def test_32_bit_samples_are_refused_by_name(tmp_path: Path) -> None:
    Image.fromarray(np.ones((4, 5), np.float32)).save(tmp_path / "f.tiff")
    assert inspect_image(str(tmp_path / "f.tiff")).problem_kind == "unsupported-image"
    cv2.imwrite(str(tmp_path / "rgb.tiff"), np.ones((4, 5, 3), np.float32))
    assert inspect_image(str(tmp_path / "rgb.tiff")).problem_kind == "unsupported-image"
    with pytest.raises(YoloflowError, match="8 or 16 bits"):
        decode_image(str(tmp_path / "f.tiff"))


def test_the_thumbnail_of_a_raw_file_is_not_taken_for_the_image(tmp_path: Path) -> None:
    path = write_picture(tmp_path / "a.tiff", 16, 12).rename(tmp_path / "a.nef")
    assert inspect_image(str(path)).problem_kind == "unsupported-image"
    with pytest.raises(YoloflowError, match=r"no \.nef images; save it as JPEG or PNG"):
        decode_image(str(path))
    renamed = write_picture(tmp_path / "b.jpg").rename(tmp_path / "b.heic")
    assert inspect_image(str(renamed)).problem_kind is None


@pytest.mark.parametrize("suffix", [".svg", ".ico", ".eps", ".icns"])
def test_drawings_and_icons_are_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"<svg xmlns='http://www.w3.org/2000/svg'/>")
    assert inspect_image(str(path)).problem_kind == "unsupported-image"
    with pytest.raises(YoloflowError, match=rf"no \{suffix} images; save it as JPEG or PNG"):
        decode_image(str(path))


@pytest.mark.parametrize("orientation", [1, 6])
def test_heic_images_are_read_where_the_package_is_installed(tmp_path: Path, orientation: int) -> None:
    pytest.importorskip("pillow_heif").register_heif_opener()
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = write_picture(tmp_path / "a.heic", 96, 64, exif=exif, quality=-1)
    header = inspect_image(str(path))
    upright = decode_image(str(write_picture(tmp_path / "a.png", 96, 64)))
    assert (header.problem_kind, header.height, header.width) == (None, *upright.shape[:2])
    assert header.orientation == 1  # boxes of the format itself turn a HEIC image, EXIF does not
    assert np.abs(decode_image(str(path)).astype(int) - upright).max() < 16
    cut = tmp_path / "cut.heic"
    cut.write_bytes(path.read_bytes()[:-200])
    assert inspect_image(str(cut)).problem_kind == "truncated-image"
    with pytest.raises(YoloflowError, match=r"cut\.heic: "):
        decode_image(str(cut))


def test_without_the_package_a_heic_image_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    _heif_format.cache_clear()
    path = tmp_path / "a.heic"
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    detail = inspect_image(str(path)).detail
    _heif_format.cache_clear()
    assert detail == (
        "the installed libraries read no HEIC images; save it as JPEG or PNG, "
        "or pip install pillow-heif (or 'yoloflow[heif]')"
    )


def test_an_image_too_large_to_decode_is_refused_without_decoding(tmp_path: Path) -> None:
    path = write_picture(tmp_path / "bomb.png", 4, 4)
    data = bytearray(path.read_bytes())
    data[16:24] = (30_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    path.write_bytes(data)
    assert inspect_image(str(path)).problem_kind == "image-too-large"


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_no_damage_to_an_image_makes_anything_but_a_named_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "a.bin"
    for suffix in SUFFIXES + MORE_SUFFIXES:
        path = path.with_suffix(".tga" if suffix == ".tga" else ".bin")
        content = write_picture(tmp_path / f"a{suffix}", 24, 16, **options_of(suffix)).read_bytes()
        for _ in range(40):
            data = np.frombuffer(content, np.uint8).copy()
            places = rng.integers(0, len(data), rng.integers(1, 8))
            data[places] = rng.integers(0, 256, len(places))
            path.write_bytes(data[: rng.integers(1, len(data) + 1)].tobytes())
            facts = inspect_image(str(path))
            assert (facts.problem_kind is None) == (facts.height > 0)
            try:
                assert decode_image(str(path)).shape[2] == 3
            except YoloflowError as error:
                message = str(error)
            else:
                message = str(path)
            assert str(path) in message
