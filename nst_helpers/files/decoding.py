"""Decoding: image files and PIL images to arrays in sRGB, by all that the file says about its numbers.

It needs NumPy and Pillow only, and imports nothing of this package: `sandbox` runs it as a separate program.
"""

import contextlib
import io
import json
import sys
import threading
import warnings
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import ExifTags, Image, ImageCms

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "HEIF", "GIF", "TIFF", "BMP")  # AVIF and HEIF: where Pillow can read them.
# Not all formats of Pillow are allowed: to open an EPS file, for example, it runs the PostScript program in it.
MAX_PIXELS = 178_000_000  # Pillow's own limit for decompression bombs
MAX_TEXT = 64_000_000  # bytes of a text in a PNG, decompressed
DARK = 1 / 8  # integers whose maximum is below this share of the full scale are probably scaled differently

# Tags of a TIFF
NEW_SUBFILE_TYPE, SUBFILE_TYPE, BITS, COMPRESSION, PHOTOMETRIC, MAX_SAMPLE_VALUE, PLANAR, SUB_IFDS, SAMPLE_FORMAT = (
    254, 255, 258, 259, 262, 281, 284, 330, 339,
)  # fmt: skip
ICC_PROFILE = 34675
SIGNED = 2  # SAMPLE_FORMAT
ADOBE_RGB_TO_SRGB = np.array([[1.39836, -0.39836, 0], [0, 1, 0], [0, -0.04293, 1.04293]], np.float32)  # linear light

NEEDED = (b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"acTL", b"fcTL", b"fdAT", b"IDAT", b"IEND")  # chunks of a PNG
ORIENTATION_TEXTS = (b"XML:com.adobe.xmp", b"Raw profile type exif", b"Raw profile type APP1")

EXPORT = "export the picture as JPEG, PNG or TIFF"
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
SIGNATURES = (  # of files that are not read: (position, bytes, what it is and what to do)
    (0, b"\xff\x0a", f"JPEG XL; {EXPORT}"),
    (4, b"JXL ", f"JPEG XL; {EXPORT}"),
    (4, b"jP  ", f"JPEG 2000; {EXPORT}"),
    (0, b"\xff\x4f\xff\x51", f"JPEG 2000; {EXPORT}"),
    (0, b"#?RADIANCE", f"Radiance HDR; {EXPORT}"),
    (0, b"#?RGBE", f"Radiance HDR; {EXPORT}"),
    (0, b"v/1\x01", f"OpenEXR; {EXPORT}"),
    (0, b"8BPS", f"a Photoshop document (PSD); {EXPORT}"),
    (0, b"gimp xcf", f"a GIMP document (XCF); {EXPORT}"),
    (0, b"%!PS", f"PostScript (EPS); {EXPORT}"),
    (0, b"\xc5\xd0\xd3\xc6", f"PostScript (EPS); {EXPORT}"),
    (0, b"%PDF", f"PDF; {EXPORT}"),
    (8, b"crx ", f"a camera's RAW (CR3); {EXPORT}"),
    (8, b"CR\x02", f"a camera's RAW (CR2); {EXPORT}"),
    (0, b"FUJIFILMCCD-RAW", f"a camera's RAW (RAF); {EXPORT}"),
    (0, b"IIRO", f"a camera's RAW (ORF); {EXPORT}"),
    (0, b"IIRS", f"a camera's RAW (ORF); {EXPORT}"),
    (0, b"MMOR", f"a camera's RAW (ORF); {EXPORT}"),
    (0, b"IIU\0", f"a camera's RAW (RW2); {EXPORT}"),
    (4, b"ftyp", "a video; save one of its frames as PNG"),
    (0, b"\x1aE\xdf\xa3", "a video; save one of its frames as PNG"),
    (8, b"AVI ", "a video; save one of its frames as PNG"),
    (0, b"II*\0", f"a TIFF with samples of a kind that Pillow cannot read; {EXPORT} with 8 or 16 bits"),
    (0, b"MM\0*", f"a TIFF with samples of a kind that Pillow cannot read; {EXPORT} with 8 or 16 bits"),
)
HTML = "a web page (HTML); is this the address of the picture itself?"
MARKUP = ((b"<!doctype html", HTML), (b"<html", HTML), (b"<svg", f"SVG; {EXPORT}"))


def decode(content: bytes, name: str = "<bytes>", max_pixels: int = MAX_PIXELS) -> tuple[np.ndarray, list[str]]:
    """Return the picture in an image file, as `pixels` does.

    Of an animation, it is the first frame; of a TIFF, the first page that is not a preview or a mask.

    Raises ValueError, with the name and the reason, for anything that is not a whole image in one of the `FORMATS`,
    and for more than `max_pixels` pixels (according to the header).
    """
    if not content:
        raise ValueError(f"{name}: the file is empty")
    with _quiet:
        try:
            needed, profile = _needed(content)
            picture = Image.open(io.BytesIO(needed), formats=_known_formats(content))
        except Image.DecompressionBombError:  # over twice a limit that a program may have changed
            most = min(max_pixels, 2 * (Image.MAX_IMAGE_PIXELS or max_pixels))
            raise ValueError(f"{name}: expected at most {most / 1e6:g} megapixels, got more") from None
        except MemoryError:
            raise
        except Exception as error:
            formats = ", ".join(_known_formats())
            raise ValueError(f"{name}: expected an image in one of the formats {formats}{_got(content)}") from error
        with picture:
            _find_frame(picture, name)
            if (megapixels := picture.width * picture.height / 1e6) > max_pixels / 1e6:
                raise ValueError(f"{name}: expected at most {max_pixels / 1e6:g} megapixels, got {megapixels:.1f}")
            if _tag(picture, PLANAR, 1) == 2 and _tag(picture, COMPRESSION, 1) == 1 and _depth(picture) == 16:
                raise ValueError(f"{name}: expected samples in one plane, got a planar TIFF of 16 bits; {EXPORT}")
            if profile:
                picture.info["icc_profile"] = profile
            return pixels(picture, name)


def pixels(picture: Image.Image, name: str) -> tuple[np.ndarray, list[str]]:
    """Return a picture as an array (H, W, 3) or, with opacity, (H, W, 4) in sRGB, and warnings about its numbers.

    The array is uint8, or float32 for more than 8 bits. The color profile is applied with the perceptual intent, unless
    it is broken or for another number of channels; so is the EXIF orientation, if it can be read.

    Gray integers of more than 8 bits are divided by their full scale: 2ⁿ − 1 for n bits, 2ⁿ⁻¹ − 1 for signed ones, or
    the MaxSampleValue of a TIFF if that is 2ᵏ − 1. A TIFF whose 0 is white is inverted. Floats are not checked.

    Raises ValueError for a truncated or damaged image, and for values that do not fit their scale.
    """
    notes: list[str] = []
    depth = _depth(picture)
    try:
        with _quiet:
            _scale_transparency(picture, depth)
            picture.load()
            orientation = _orientation(picture)
            is_signed = picture.mode == "L" and _tag(picture, SAMPLE_FORMAT, 1) == SIGNED
            colors = None if picture.mode[0] in "IF" or is_signed else _colors(picture)
    except MemoryError:
        raise
    except Exception as error:
        if isinstance(error, AssertionError | AttributeError) and getattr(picture, "fp", picture) is None:
            raise ValueError(f"{name}: the picture's file was closed before the pixels were read") from None
        raise ValueError(f"{name}: the image is truncated or damaged ({error or type(error).__name__})") from error
    if 0 in picture.size:
        raise ValueError(f"{name}: the picture is zero-sized ({picture.width}×{picture.height} px)")
    array = _high_bit_depth_gray(picture, name, notes) if colors is None else colors
    if array.dtype == np.uint8 and depth == 16 and 0 < array[..., :3].max() < 255 * DARK:
        notes.append(_dark(name, int(array[..., :3].max()), 255))
    return np.ascontiguousarray(_oriented(array, orientation)), notes


def png_text(content: bytes, keyword: str) -> str | None:
    """Return an international text (iTXt) of a PNG, or None if there is none. Raises ValueError if it is too long."""
    for kind, start, end in _chunks(content):
        found, _, rest = content[start + 8 : end - 4].partition(b"\0")
        if kind == b"iTXt" and found == keyword.encode():
            compressed, text = rest[:1] == b"\1", rest[2:].split(b"\0", 2)[2]
            if compressed:
                unzip = zlib.decompressobj()
                text = unzip.decompress(text, MAX_TEXT)
                if unzip.unconsumed_tail:
                    raise ValueError(f"expected at most {MAX_TEXT / 1e6:g} MB of text in {keyword}, got more")
            return text.decode()
    return None


class _Quiet:
    """No warnings while at least one thread is inside: Pillow's, of broken metadata and half of its limit for bombs.

    `warnings.catch_warnings` belongs to the process. Left by two threads in another order than entered, it would switch
    off all warnings for good.
    """

    def __init__(self):
        self._lock, self._inside = threading.Lock(), 0

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.simplefilter("ignore")

    def __exit__(self, *error) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._filters.__exit__(*error)


_quiet = _Quiet()


# ----------------------------------------------------------------------------------------------------------- containers


def _known_formats(content: bytes = b"") -> list[str]:
    """Return the `FORMATS` that this Pillow can open; with a HEIC file, after registering pillow-heif if installed."""
    Image.init()
    if _is_heic(content) and "HEIF" not in Image.OPEN:
        with contextlib.suppress(ImportError):
            from pillow_heif import register_heif_opener

            register_heif_opener()
    return [format for format in FORMATS if format in Image.OPEN]


def _is_heic(content: bytes) -> bool:
    return content[4:8] == b"ftyp" and content[8:12] in HEIC_BRANDS


def _got(content: bytes) -> str:
    """Return ", got …" with the name of a known kind of file that is not read, or an empty string."""
    if _is_heic(content):
        return ", got a damaged HEIC" if "HEIF" in Image.OPEN else f", got HEIC; install pillow-heif, or {EXPORT}"
    text = content[:1000].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"<"):
        return next((f", got {what}" for word, what in MARKUP if word in text), "")
    return next((f", got {what}" for at, sign, what in SIGNATURES if content[at : at + len(sign)] == sign), "")


def _chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield (type, start, end) for each chunk of a PNG; nothing for other files."""
    start = 8 if content[:8] == b"\x89PNG\r\n\x1a\n" else len(content)
    while start + 12 <= len(content):
        end = start + 12 + int.from_bytes(content[start : start + 4], "big")
        yield content[start + 4 : start + 8], start, end
        start = end


def _needed(content: bytes) -> tuple[bytes, bytes]:
    """Return a PNG without the chunks that are not needed, and its color profile; any other file, and b"".

    Pillow raises an error for a text or a profile of more than 1 MB, and for some damaged chunks.
    """
    kept, profile = [content[:8]], b""
    for kind, start, end in _chunks(content):
        keyword, _, rest = content[start + 8 : end - 4].partition(b"\0")
        if kind == b"iCCP":
            with contextlib.suppress(zlib.error):
                profile = zlib.decompressobj().decompress(rest[1:], MAX_TEXT)
        elif kind in NEEDED or (end - start < 100_000 and keyword in ORIENTATION_TEXTS):
            kept.append(content[start:end])
    if len(kept) == 1:
        return content, b""
    return b"".join(kept), profile


def _find_frame(picture: Image.Image, name: str) -> None:
    """Go to the frame that is the picture: not a preview or a mask in a TIFF, not a substitute for an animation."""
    try:
        if getattr(picture, "default_image", False):
            picture.seek(1)  # the animation's first frame, which is what browsers show
        if picture.format == "TIFF":
            while _tag(picture, NEW_SUBFILE_TYPE, 0) & 0b101 or _tag(picture, SUBFILE_TYPE, 1) == 2:
                picture.seek(picture.tell() + 1)
                if ICC_PROFILE not in getattr(picture, "tag_v2", {}):
                    picture.info.pop("icc_profile", None)  # of the page before
    except EOFError:  # previews only
        raw = _tag(picture, SUB_IFDS, 0)
        picture.seek(0)
        if raw or _tag(picture, SUB_IFDS, 0):
            raise ValueError(
                f"{name}: expected a picture, got only its preview; is it a camera's RAW? {EXPORT}"
            ) from None
    except Exception as error:
        raise ValueError(f"{name}: the image is truncated or damaged ({error})") from error


def _tag(picture: Image.Image, number: int, default: int) -> int:
    """Return a TIFF's tag, or the first of its values, as a whole number."""
    try:
        value = getattr(picture, "tag_v2", {}).get(number, default)
        return int(value[0] if isinstance(value, tuple) else value)
    except Exception:
        return default


def _orientation(picture: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 if there is none that can be read."""
    try:
        value = picture.getexif().get(ExifTags.Base.Orientation, 1)
        return int(value[0] if isinstance(value, tuple) else value)
    except Exception:
        return 1


def _oriented(array: np.ndarray, orientation: int) -> np.ndarray:
    """Return an array (H, W, C) as it is to be seen, by its EXIF orientation."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return array


# -------------------------------------------------------------------------------------------------------------- numbers


def _depth(picture: Image.Image) -> int:
    """Return the number of bits of a sample in a PNG or a TIFF that was opened, but not loaded; else 8."""
    if picture.format == "TIFF":
        return _tag(picture, BITS, 8)
    tiles = getattr(picture, "tile", []) if picture.format == "PNG" else []
    raw_mode = str(tiles[0].args) if tiles else ""
    return next((depth for depth in (16, 4, 2, 1) if f";{depth}" in raw_mode), 8)


def _dark(name: str, high: int, full: int) -> str:
    return f"{name}: the largest value is {high} of {full}, so the picture is dark; is it scaled right?"


def _scale_transparency(picture: Image.Image, depth: int) -> None:
    """Scale a PNG's transparent color as Pillow scales its pixels, from 2, 4 or 16 bits to 8."""
    color = picture.info.get("transparency")
    if picture.format == "PNG" and picture.mode == "1" and color is not None:
        picture.info["transparency"] = 255 if color else 0  # older versions of Pillow leave 1
    if picture.format != "PNG" or depth == 8 or picture.mode in ("1", "P"):
        return
    if isinstance(color, tuple):
        picture.info["transparency"] = tuple(value >> 8 for value in color)
    elif isinstance(color, int) and depth < 8:
        picture.info["transparency"] = color * 255 // (2**depth - 1)


def _high_bit_depth_gray(picture: Image.Image, name: str, notes: list[str]) -> np.ndarray:
    """Return grayscale of more than 8 bits as RGB or RGBA: float32, divided by its full scale."""
    values = np.asarray(picture)
    is_big_endian = getattr(getattr(picture, "tag_v2", None), "prefix", b"II") == b"MM"
    if is_big_endian and picture.mode in ("I", "F") and _tag(picture, COMPRESSION, 1) != 1:
        stored = values.astype(np.int16) if _tag(picture, BITS, 32) == 16 else values
        values = stored.byteswap()  # libtiff has swapped the bytes, and then Pillow does it again
    if values.dtype.kind == "f":
        gray = values.astype(np.float32)
    else:
        bits, signed = _tag(picture, BITS, 16), _tag(picture, SAMPLE_FORMAT, 1) == SIGNED
        if bits == 32 and not signed:
            values = values.view(np.uint32)
        elif bits == 8 and signed:
            values = values.view(np.int8)
        full, low, high = 2 ** (bits - signed) - 1, int(values.min()), int(values.max())
        maximum = _tag(picture, MAX_SAMPLE_VALUE, 0)
        if high <= maximum < full and maximum & (maximum + 1) == 0:
            full = maximum
        if low < 0 or high > full:
            raise ValueError(f"{name}: expected values from 0 to {full}, got values from {low} to {high}")
        if picture.format is None and 0 < high <= 255:
            raise ValueError(
                f'{name}: expected values up to 65535 in mode {picture.mode!r}, got 0 to {high}; use .convert("L")'
            )
        if 0 < high < full * DARK:
            notes.append(_dark(name, high, full))
        gray = (values / full).astype(np.float32)
    if picture.format == "TIFF" and _tag(picture, PHOTOMETRIC, 1) == 0:
        gray = np.float32(1) - gray
    array: np.ndarray = np.stack([gray] * 3, 2)
    colors = None
    if (profile := picture.info.get("icc_profile")) and values.dtype.kind != "f":
        colors = _in_srgb(Image.fromarray((gray * 65535).round().astype(np.uint16)), profile)
    if colors is not None:
        array = np.asarray(colors).astype(np.float32) / 255
    transparent = picture.info.get("transparency")
    if isinstance(transparent, int):
        array = np.concatenate([array, (values != transparent).astype(np.float32)[:, :, None]], 2)
    return array


def _colors(picture: Image.Image) -> np.ndarray:
    """Return a picture with 8 bits a channel as RGB or RGBA in sRGB: uint8."""
    profile, alpha = picture.info.get("icc_profile"), None
    is_adobe_rgb = not profile and _is_adobe_rgb(picture)
    if picture.has_transparency_data:
        picture = picture.convert("LA" if picture.mode in ("L", "LA", "La", "1") else "RGBA")
        alpha = picture.getchannel("A")
        picture = picture.convert(picture.mode[:-1])
    elif picture.mode == "1":
        picture = picture.convert("L")
    elif picture.mode not in ("L", "CMYK"):
        picture = picture.convert("RGB")
    colors = (_in_srgb(picture, profile) if profile else None) or picture.convert("RGB")
    if is_adobe_rgb:
        colors = _from_adobe_rgb(colors)
    if alpha is not None:
        colors.putalpha(alpha)
    return np.asarray(colors)


def _in_srgb(picture: Image.Image, profile: bytes) -> Image.Image | None:
    """Return a picture converted from a color profile to sRGB; None if the profile is broken or does not fit."""
    try:
        return ImageCms.profileToProfile(picture, io.BytesIO(profile), ImageCms.createProfile("sRGB"), outputMode="RGB")
    except Exception:
        return None


def _is_adobe_rgb(picture: Image.Image) -> bool:
    """Return whether the EXIF data declare Adobe RGB, as cameras do that embed no profile (DCF's option)."""
    try:
        exif = picture.getexif()
        if exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.ColorSpace) == 2:
            return True
        return exif.get_ifd(ExifTags.IFD.Interop).get(ExifTags.Interop.InteropIndex) == "R03"
    except Exception:
        return False


def _from_adobe_rgb(picture: Image.Image) -> Image.Image:
    """Return an RGB picture converted from Adobe RGB (1998) to sRGB (IEC 61966-2-1). Both have the white D65."""
    array = np.array(picture)
    linear_light = (np.arange(256, dtype=np.float32) / 255) ** np.float32(563 / 256)
    for row in array:  # one at a time, which needs little memory
        linear = (linear_light[row] @ ADOBE_RGB_TO_SRGB.T).clip(0, 1)
        values = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
        row[:] = (255 * values).round()
    return Image.fromarray(array)


# ---------------------------------------------------------------------------------------------------------- the program


def main() -> None:
    """Decode standard input. Arguments: maximum number of pixels, bytes of memory, seconds of processor time.

    Writes a line of JSON, with either "error" or "shape", "dtype" and "notes", and then the array's bytes.
    """
    max_pixels, memory, seconds = map(int, sys.argv[1:])
    for name, limit in (("RLIMIT_AS", memory), ("RLIMIT_CPU", seconds)):
        with contextlib.suppress(ImportError, OSError, ValueError):  # Windows has neither; macOS may refuse the first
            import resource

            resource.setrlimit(getattr(resource, name), (limit, limit))
    try:
        array, notes = decode(sys.stdin.buffer.read(), "<bytes>", max_pixels)
        header = {"shape": array.shape, "dtype": str(array.dtype), "notes": notes}
    except (ValueError, MemoryError) as error:
        array, header = np.empty(0), {"error": str(error) or "<bytes>: the picture needs too much memory"}
    sys.stdout.buffer.write(json.dumps(header).encode() + b"\n")
    sys.stdout.buffer.write(array.tobytes())


if __name__ == "__main__":
    main()
