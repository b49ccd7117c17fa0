"""Reads what a shared object of x86-64 Linux wants of others."""

import struct
from pathlib import Path

DYNSYM, VERSYM, VERNEED = 11, 0x6FFFFFFF, 0x6FFFFFFE  # types of sections
SECTION = struct.Struct("<IIQQQQIIQQ")  # name, type, flags, address, offset, size, link, ...
SYMBOL = struct.Struct("<IBBHQQ")  # name, info, other, section, value, size
NEED = struct.Struct("<HHIII")  # version, count, file, first entry, next need
NEEDED = struct.Struct("<IHHII")  # hash, flags, number, name, next entry


def undefined(path: Path) -> set[tuple[str, str]]:
    """The functions an object takes from others, such as `("dlopen", "GLIBC_2.2.5")`."""
    image = path.read_bytes()
    if image[:6] != b"\x7fELF\x02\x01":
        raise ValueError(f"{path}: expected a 64-bit, little-endian ELF file")
    (table,) = struct.unpack_from("<Q", image, 0x28)
    size, count = struct.unpack_from("<HH", image, 0x3A)
    sections = [SECTION.unpack_from(image, table + i * size) for i in range(count)]
    found = {section[1]: section for section in sections}
    if not {DYNSYM, VERSYM, VERNEED} <= set(found):
        return set()
    names = sections[found[DYNSYM][6]][4]

    def text(offset: int) -> str:
        start = names + offset
        return image[start : image.index(b"\0", start)].decode()

    versions = {}
    need = found[VERNEED][4]
    while True:
        _, entries, _, first, following = NEED.unpack_from(image, need)
        entry = need + first
        for _ in range(entries):
            _, _, number, name, step = NEEDED.unpack_from(image, entry)
            versions[number] = text(name)
            entry += step
        if not following:
            break
        need += following

    wanted = set()
    start, length = found[DYNSYM][4], found[DYNSYM][5]
    for i in range(length // SYMBOL.size):
        name, _, _, section, _, _ = SYMBOL.unpack_from(image, start + i * SYMBOL.size)
        (version,) = struct.unpack_from("<H", image, found[VERSYM][4] + 2 * i)
        if not section and version & 0x7FFF in versions:
            wanted.add((text(name), versions[version & 0x7FFF]))
    return wanted
