"""Damage that any file may take, and pictures that parsers stumble over."""

import io
import random
import struct
import zlib
from collections.abc import Callable

HTML = b"<!DOCTYPE html><html><head><title>404 Not Found</title></head><body>Not Found</body></html>\n"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 1234\n"


def cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(1, max(len(content), 2))]


def cut_last(content: bytes, rng: random.Random) -> bytes:
    return content[: -rng.randrange(1, min(9, max(len(content), 2)))]


def empty(content: bytes, rng: random.Random) -> bytes:
    return b""


def html(content: bytes, rng: random.Random) -> bytes:
    return HTML


def pointer(content: bytes, rng: random.Random) -> bytes:
    return POINTER


def zeros(content: bytes, rng: random.Random) -> bytes:
    return bytes(len(content))


def noise(content: bytes, rng: random.Random) -> bytes:
    return rng.randbytes(max(len(content), 64))


def flipped(content: bytes, rng: random.Random, low: int = 0, high: int | None = None) -> bytes:
    """One bit of the bytes [low, high) is flipped."""
    changed = bytearray(content)
    place = rng.randrange(low, max(min(high or len(content), len(content)), low + 1))
    changed[place] ^= 1 << rng.randrange(8)
    return bytes(changed)


def bits_flipped(content: bytes, rng: random.Random) -> bytes:
    for _ in range(rng.choice((1, 1, 3, 20))):
        content = flipped(content, rng)
    return content


def hole(content: bytes, rng: random.Random) -> bytes:
    """A part in the middle is overwritten with zeros, as a file system leaves it after a crash."""
    at = rng.randrange(len(content)) if content else 0
    size = min(len(content) - at, rng.choice((16, 512, 4096)))
    return content[:at] + bytes(size) + content[at + size :]


RUINED: tuple[Callable, ...] = (cut, empty, html, pointer, zeros, noise)  # nothing can be made of these

# Pictures


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, rows: bytes, *more: bytes, header: bytes | None = None) -> bytes:
    ihdr = header if header is not None else struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [_chunk(b"IHDR", ihdr), *more, _chunk(b"IDAT", zlib.compress(rows)), _chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def huge_png(rng: random.Random) -> bytes:
    side = rng.choice((10_000, 13_000, 20_000, 60_000, 2**31 - 1))
    return png(side, side, b"")


def real_bomb(rng: random.Random) -> bytes:
    """A picture of a hundred and twenty million pixels in a small file."""
    side = 11_000
    packed = zlib.compressobj(9)
    rows = b"".join([*(packed.compress(bytes(1 + 3 * side)) for _ in range(side)), packed.flush()])
    ihdr = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", ihdr) + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")


def short_header(rng: random.Random) -> bytes:
    return png(8, 8, bytes(200), header=rng.randbytes(rng.randrange(13)))


def strange_header(rng: random.Random) -> bytes:
    return png(8, 8, bytes(200), header=struct.pack(">II", 8, 8) + rng.randbytes(5))


def text_bomb(rng: random.Random) -> bytes:
    return png(8, 8, bytes(200), _chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**21))))


def no_pixels(rng: random.Random) -> bytes:
    return png(rng.choice((0, 8)), 0, b"")


def few_pixels(rng: random.Random) -> bytes:
    return png(64, 64, bytes(rng.randrange(64 * 193)))


def garbage_of(rng: random.Random) -> bytes:
    """Noise behind the first bytes of a format."""
    magic = rng.choice(
        (
            b"BM",
            b"GIF89a",
            b"II*\0\x08\0\0\0",
            b"MM\0*\0\0\0\x08",
            b"\0\0\0\x0cjP  \r\n\x87\n",
            b"RIFF\x40\0\0\0WEBPVP8L",
        )
        + (b"\xff\xd8\xff\xe0\0\x10JFIF\0", b"8BPS\0\x01", b"P6 99 99 255\n", b"P5 99999 99999 255\n", b"\0\0\1\0\1\0")
        + (b"DDS \x7c\0\0\0", b"icns\0\0\1\0", b"\x59\xa6\x6a\x95", b"SIMPLE  =  T", b"qoif", b"%!PS-Adobe-3.0\n")
    )
    return magic + rng.randbytes(rng.choice((0, 20, 300)))


def damaged_real(rng: random.Random) -> bytes:
    """A true picture of some format with damage that no checksum has to tell: it is cut, or its header is noise."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.frombytes("RGB", (40, 40), rng.randbytes(4800)).save(
        buffer, rng.choice(("JPEG", "TIFF", "BMP", "WEBP", "GIF"))
    )
    content = buffer.getvalue()
    return content[: rng.randrange(len(content) // 2)]


PICTURES: tuple[Callable[[random.Random], bytes], ...] = (
    *(huge_png, real_bomb, short_header, strange_header, text_bomb, no_pixels, few_pixels),
    *(garbage_of, garbage_of, damaged_real, damaged_real),
)
