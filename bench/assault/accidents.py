"""What happens to the bytes of a file: some are other ones, lost, doubled or foreign; lengths lie; it ends early."""

from __future__ import annotations

import random

LENGTHS = (0, 1, 0x7F, 0xFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1)
"""What a length is likely to be when it is wrong."""


def damaged(sound: bytes, chance: random.Random, foreign: bytes = b"") -> bytes:
    """The bytes after one to three accidents; pieces of `foreign` get among them."""
    data = bytearray(sound)
    for _ in range(chance.randint(1, 3)):
        at, length = chance.randint(0, len(data)), chance.randint(1, 8)
        match chance.choice(("bit", "set", "lose", "double", "insert", "end", "length", "text length", "paste")):
            case "bit":
                if data:
                    data[at % len(data)] ^= 1 << chance.randrange(8)
            case "set":
                data[at : at + length] = chance.randbytes(length)
            case "lose":
                del data[at : at + length * chance.choice((1, 1, 10))]
            case "double":
                data[at:at] = data[at : at + 50 * length]
            case "insert":
                data[at:at] = chance.randbytes(length)
            case "end":
                del data[at:]
            case "length":
                size = chance.choice((1, 2, 4, 8))
                value = chance.choice(LENGTHS) % 256**size
                data[at : at + size] = value.to_bytes(size, chance.choice(("little", "big")))
            case "text length":
                _change_a_number(data, chance)
            case "paste":
                begin = chance.randint(0, len(foreign))
                data[at : at + length] = foreign[begin : begin + 4 * length]
    return bytes(data)


def _change_a_number(data: bytearray, chance: random.Random) -> None:
    """Another number stands where digits do, as in headers that are text."""
    digits = [at for at, byte in enumerate(data) if 48 <= byte <= 57]
    if not digits:
        return
    begin = end = chance.choice(digits)
    while end < len(data) and 48 <= data[end] <= 57:
        end += 1
    data[begin:end] = str(chance.choice((*LENGTHS, 10**30, chance.randrange(1000)))).encode()
