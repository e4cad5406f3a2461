"""Pictures of every bit depth, colour model and format: a ramp from black to white stays one, or is refused."""

from __future__ import annotations

import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from picture_support import COLOUR, GREY_ALPHA, ramp, write_png, write_tiff
from rushes.errors import PromptError
from rushes_service.models.inputs.bit_depth import UnknownRange, eight_bits
from rushes_service.models.inputs.control import control_frames
from rushes_service.models.inputs.images import open_image, picture_fingerprint

WIDTH = 64
IDEAL = ramp(WIDTH, 255).astype(np.uint8)
COLOURS = np.stack([IDEAL] * 3, -1)


def opened(path: Path, mode: str = "RGB") -> np.ndarray:
    return np.asarray(open_image(path, "image_path", mode))


def is_ramp(pixels: np.ndarray, off: int = 1) -> bool:
    """True for 0..255 from left to right in every channel, at most `off` beside it."""
    return bool(np.abs(pixels[..., :3].astype(int) - COLOURS[: len(pixels)]).max() <= off)


# What every mode of Pillow becomes: how far it may be off, or None where it is refused.
MODES: dict[str, int | None] = {
    "1": 127,
    "L": 0,
    "P": 0,
    "RGB": 0,
    "RGBA": 0,
    "RGBa": 0,
    "RGBX": 0,
    "LA": 0,
    "La": 0,
    "PA": 0,
    "CMYK": 0,
    "YCbCr": 2,
    "HSV": 0,
    "LAB": 3,
    "I;16": 0,
    "I;16L": 0,
    "I;16B": 0,
    "I;16N": 0,
    "I": None,
    "F": None,
}


def in_mode(mode: str) -> Image.Image:
    """A ramp in a mode."""
    grey = Image.fromarray(IDEAL)
    if mode.startswith("I;16"):
        order = ">" if mode == "I;16B" else "<"
        wide = (IDEAL.astype(np.uint16) * 257).astype(f"{order}u2")
        return Image.frombytes(mode, grey.size, wide.tobytes())
    if mode == "LAB":
        from PIL import ImageCms

        srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        converted = ImageCms.profileToProfile(grey.convert("RGB"), srgb, lab, outputMode="LAB")
        assert converted is not None
        return converted
    if mode in ("RGBa", "La"):
        return grey.convert({"RGBa": "RGBA", "La": "LA"}[mode]).convert(mode)
    if mode == "1":
        return grey.convert("1", dither=Image.Dither.NONE)
    if mode in ("P", "PA"):
        return grey.convert("P").convert(mode)
    return grey.convert("RGB").convert(mode) if mode in ("HSV", "CMYK", "RGBX") else grey.convert(mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("wanted", ["RGB", "RGBA"])
def test_a_ramp_in_every_mode_of_pillow_stays_one_or_is_refused(mode: str, wanted: str) -> None:
    image = in_mode(mode)
    assert image.mode == mode
    off = MODES[mode]
    if off is None:
        with pytest.raises(UnknownRange, match="is white"):
            eight_bits(image, wanted, 8)
        return
    made = eight_bits(image, wanted, 16 if mode.startswith("I;16") else 8)
    assert made.mode == wanted
    pixels = np.asarray(made)
    assert is_ramp(pixels, off)
    assert wanted == "RGB" or (pixels[..., 3] == 255).all()


def test_the_table_has_every_mode_that_pillow_opens() -> None:
    assert set(Image.MODES) <= set(MODES)


def bits_in_png(path: Path, bits: int) -> Path:
    return write_png(path, ramp(WIDTH, 2**bits - 1), bits)


TIFF_KINDS = [(8, "<", 1), (8, "<", 0), (16, "<", 1), (16, ">", 1), (16, "<", 0), (12, "<", 1)]
"""Bits, byte order, and whether white (1) or black (0) is the largest number."""

FILES = {
    **{f"grey{bits}.png": lambda path, bits=bits: bits_in_png(path, bits) for bits in (1, 2, 4, 8, 16)},
    "colour16.png": lambda path: write_png(path, np.stack([ramp(WIDTH, 65535)] * 3, -1), 16, COLOUR),
    "alpha16.png": lambda path: write_png(
        path, np.stack([ramp(WIDTH, 65535), np.full((8, WIDTH), 65535)], -1), 16, GREY_ALPHA
    ),
    **{
        f"grey{bits}{order}{photometric}.tif": lambda path, bits=bits, order=order, photometric=photometric: write_tiff(
            path, ramp(WIDTH, 2**bits - 1)[:, :: 1 if photometric else -1], bits, order=order, photometric=photometric
        )
        for bits, order, photometric in TIFF_KINDS
    },
    "stated.TIFF": lambda path: write_tiff(path, ramp(WIDTH, 65535), 16, sample_format=1),
    "colour16.tif": lambda path: write_tiff(path, np.stack([ramp(WIDTH, 65535)] * 3, -1), 16, photometric=2),
    "deflated16.tif": lambda path: Image.fromarray(ramp(WIDTH, 65535).astype(np.uint16)).save(
        path, compression="tiff_deflate"
    ),
    "palette.gif": lambda path: Image.fromarray(IDEAL).save(path),
    "grey.bmp": lambda path: Image.fromarray(IDEAL).save(path),
    "grey.webp": lambda path: Image.fromarray(COLOURS).save(path, lossless=True),
    "cmyk.tif": lambda path: Image.fromarray(COLOURS).convert("CMYK").save(path),
    "cmyk.jpg": lambda path: Image.fromarray(COLOURS).convert("CMYK").save(path, quality=100),
    "lab.tif": lambda path: in_mode("LAB").save(path),
    "a picture without a suffix": lambda path: Image.fromarray(IDEAL).save(path, format="PNG"),
}
OFF = {"grey1.png": 127, "grey2.png": 43, "grey4.png": 9, "lab.tif": 3, "cmyk.jpg": 3}
"""How far a ramp of few colours, or of another colour model, is beside the ideal one."""


@pytest.mark.parametrize("name", FILES)
def test_a_ramp_in_every_format_stays_one(tmp_path: Path, name: str) -> None:
    FILES[name](tmp_path / name)
    for mode in ("RGB", "RGBA"):
        assert is_ramp(opened(tmp_path / name, mode), OFF.get(name, 1))


REFUSED = {
    "float.tif": (lambda path: write_tiff(path, ramp(WIDTH, 1000) / 1000, 32, sample_format=3), "floating-point"),
    "float255.tif": (lambda path: Image.fromarray(IDEAL.astype(np.float32)).save(path), "floating-point"),
    "int32.tif": (lambda path: Image.fromarray(ramp(WIDTH, 65535).astype(np.int32)).save(path), "signed"),
    "uint32.tif": (lambda path: write_tiff(path, ramp(WIDTH, 2**32 - 1), 32), "integers of 32 bits"),
    "int16.tif": (lambda path: write_tiff(path, ramp(WIDTH, 32767), 16, sample_format=2), "signed"),
    "int8.tif": (lambda path: write_tiff(path, ramp(WIDTH, 127), 8, sample_format=2), "signed"),
    "12in16.png": (lambda path: write_png(path, ramp(WIDTH, 4095), 16), "is white"),
    "14in16.png": (lambda path: write_png(path, ramp(WIDTH, 16383), 16), "is white"),
    "millimetres.png": (lambda path: write_png(path, ramp(WIDTH, 9000), 16), "is white"),
    "12in16.tif": (lambda path: write_tiff(path, ramp(WIDTH, 4095), 16), "is white"),
    "12in16colour.png": (
        lambda path: write_png(path, np.stack([ramp(WIDTH, 4095)] * 3, -1), 16, COLOUR),
        "is white",
    ),
    "12in16alpha.png": (
        lambda path: write_png(path, np.stack([ramp(WIDTH, 4095), np.full((8, WIDTH), 65535)], -1), 16, GREY_ALPHA),
        "is white",
    ),
    "12in16colour.tif": (
        lambda path: write_tiff(path, np.stack([ramp(WIDTH, 4095)] * 3, -1), 16, photometric=2),
        "is white",
    ),
    "eps.png": (lambda path: Image.fromarray(IDEAL).save(path, format="EPS"), "is no picture that can be read; PNG"),
    "ppm.jpg": (lambda path: Image.fromarray(IDEAL).save(path, format="PPM"), "is no picture that can be read"),
    "tga.png": (lambda path: Image.fromarray(IDEAL).save(path, format="TGA"), "is no picture that can be read"),
    "playlist.png": (lambda path: path.write_text("#EXTM3U\n/etc/hostname\n"), "is no picture that can be read"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_what_is_of_unknown_range_or_no_named_format_is_refused(tmp_path: Path, name: str, mode: str) -> None:
    write, told = REFUSED[name]
    write(tmp_path / name)
    with pytest.raises(PromptError, match=told) as caught:
        opened(tmp_path / name, mode)
    assert str(tmp_path / name) in str(caught.value)
    assert caught.value.key == "image_path"


def test_a_black_picture_of_16_bits_is_black(tmp_path: Path) -> None:
    assert opened(write_png(tmp_path / "black.png", np.zeros((8, 8), int), 16)).max() == 0


def test_pictures_of_more_than_8_bits_have_a_fingerprint_of_their_own(tmp_path: Path) -> None:
    deep = write_png(tmp_path / "deep.png", ramp(WIDTH, 65535), 16)
    flat = write_png(tmp_path / "flat.png", ramp(WIDTH, 255), 8)
    assert picture_fingerprint(deep).endswith("-16bit")
    assert len(picture_fingerprint(flat)) == 64


def frames_in(directory: Path, *frames: np.ndarray, bits: int = 16) -> Path:
    directory.mkdir()
    for number, frame in enumerate(frames):
        write_png(directory / f"{number:03}.png", frame, bits)
    return directory


def test_a_control_clip_of_16_bits_keeps_its_ramp_and_its_dark_frames(tmp_path: Path) -> None:
    dark = ramp(WIDTH, 2000)
    frames = control_frames(str(frames_in(tmp_path / "depth", dark, ramp(WIDTH, 65535))), 2, WIDTH, 8)
    assert is_ramp(frames[1])
    assert frames[0].max() == round(2000 / 257)


def test_a_control_clip_of_tiff_files(tmp_path: Path) -> None:
    (tmp_path / "depth").mkdir()
    for number in range(5):
        write_tiff(tmp_path / "depth" / f"{number}.TIF", ramp(WIDTH, 65535), 16)
    frames = control_frames(str(tmp_path / "depth"), 5, WIDTH, 8)
    assert all(is_ramp(frame) for frame in frames)


@pytest.mark.parametrize("white", [4095, 16383, 8000])
def test_a_control_clip_that_uses_a_part_of_its_bits_is_refused(tmp_path: Path, white: int) -> None:
    directory = frames_in(tmp_path / "depth", *[ramp(WIDTH, white)] * 5)
    with pytest.raises(PromptError, match=r"--cn .*depth.*is white"):
        control_frames(str(directory), 5, WIDTH, 8)


def test_a_frame_of_unknown_range_is_named(tmp_path: Path) -> None:
    directory = frames_in(tmp_path / "depth", *[ramp(WIDTH, 65535)] * 4)
    write_tiff(directory / "004.tif", ramp(WIDTH, 1000) / 1000, 32, sample_format=3)
    with pytest.raises(PromptError, match=r"--cn .*004\.tif.*floating-point"):
        control_frames(str(directory), 5, WIDTH, 8)


def test_a_picture_is_a_control_clip_of_one_frame(tmp_path: Path) -> None:
    picture = write_png(tmp_path / "depth.PNG", ramp(WIDTH, 65535), 16)
    assert is_ramp(control_frames(str(picture), 1, WIDTH, 8)[0])


def deep_video(path: Path, numbers: np.ndarray, frames: int = 5) -> Path:
    """A lossless film of grey pictures of 16 bits."""
    size = f"{numbers.shape[1]}x{numbers.shape[0]}"
    source = ["-f", "rawvideo", "-pix_fmt", "gray16le", "-s", size, "-i", "-"]
    subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *source, "-c:v", "ffv1", "-pix_fmt", "gray16le", path],
        input=numbers.astype("<u2").tobytes() * frames,
        check=True,
    )
    return path


def test_a_film_of_16_bits_keeps_its_ramp(tmp_path: Path) -> None:
    frames = control_frames(str(deep_video(tmp_path / "depth.mkv", ramp(WIDTH, 65535))), 5, WIDTH, 8)
    assert all(is_ramp(frame, 2) for frame in frames)


def test_a_film_that_uses_a_part_of_its_bits_is_refused(tmp_path: Path) -> None:
    film = deep_video(tmp_path / "depth.mkv", ramp(WIDTH, 4095))
    with pytest.raises(PromptError, match="is white"):
        control_frames(str(film), 5, WIDTH, 8)


@pytest.mark.parametrize("name", ["list.m3u8", "list.mp4", "list.ffconcat", "list.avi"])
@pytest.mark.parametrize("kind", ["hls", "concat"])
def test_a_playlist_is_not_followed(tmp_path: Path, name: str, kind: str) -> None:
    film = deep_video(tmp_path / "film.mkv", ramp(WIDTH, 65535))
    hls = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{film}\n#EXT-X-ENDLIST\n"
    (tmp_path / name).write_text(hls if kind == "hls" else f"ffconcat version 1.0\nfile {film.name}\n")
    with pytest.raises(PromptError, match="cannot be read as a video"):
        control_frames(str(tmp_path / name), 5, WIDTH, 8)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(
    st.integers(2, 200),
    st.sampled_from([*((bits, "png") for bits in (1, 2, 4, 8, 16)), *((bits, "tif") for bits in (8, 12, 16))]),
    st.floats(0.3, 1),
    st.sampled_from(["<", ">"]),
)
def test_any_ramp_stays_a_ramp(tmp_path: Path, width: int, kind: tuple[int, str], top: float, order: str) -> None:
    bits, ending = kind
    white = max(1, int(top * (2**bits - 1)))
    numbers = ramp(width, white, height=4)
    path = tmp_path / f"ramp.{ending}"
    if ending == "png":
        write_png(path, numbers, bits)
    else:
        write_tiff(path, numbers, bits, order="<" if bits == 12 else order)
    row = opened(path)[0, :, 0].astype(int)
    assert np.abs(row - numbers[0] * 255 / (2**bits - 1)).max() <= 1
    assert (np.diff(row) >= 0).all()


def test_the_support_writes_what_pillow_writes(tmp_path: Path) -> None:
    numbers = ramp(WIDTH, 65535).astype(np.uint16)
    Image.fromarray(numbers).save(tmp_path / "pillow.tif")
    for path in (tmp_path / "pillow.tif", write_tiff(tmp_path / "own.tif", numbers, 16)):
        with Image.open(path) as image:
            assert np.array_equal(np.asarray(image), numbers)
