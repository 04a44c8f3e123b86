"""Identifiers: a prefix and 26 characters that sort by the time they were made.

The characters are Crockford's base 32 of 48 bits of unix milliseconds and 80 random bits. Within one millisecond the
random part counts up, so ids made by one process are strictly increasing. No id ever contains a dot: Standard Webhooks
uses it as a separator in what is signed.
"""

from collections.abc import Callable

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = tuple(a + b for a in ALPHABET for b in ALPHABET)
_RANDOM_BITS = 80


def encode(number: int, pairs: int) -> str:
    """Write `number` as `2 * pairs` base-32 characters that sort as the numbers do."""
    return "".join([_PAIRS[(number >> shift) & 1023] for shift in range(10 * (pairs - 1), -1, -10)])


def decode(text: str) -> int:
    """Read what `encode` wrote; ValueError for any other character."""
    number = 0
    for character in text:
        number = number << 5 | ALPHABET.index(character)
    return number


class IdFactory:
    """Makes ids. Owner of the last one made."""

    def __init__(self, wall_ms: Callable[[], int], random_bits: Callable[[int], int]) -> None:
        self._wall_ms = wall_ms
        self._random_bits = random_bits
        self._last_ms = 0
        self._last_random = 0
        self._stem = ""  # of the last one: all but its last two characters

    def new(self, prefix: str) -> str:
        """Return `{prefix}_` and 26 characters, greater than every id this factory made before."""
        now_ms = self._wall_ms()
        if now_ms > self._last_ms:
            self._last_ms = now_ms
            # One bit is left free so that counting up cannot run over within a millisecond.
            self._last_random = self._random_bits(_RANDOM_BITS - 1)
            self._stem = ""
        else:
            self._last_random += 1
        last = self._last_random & 1023
        if not self._stem or not last:  # the next ids of a millisecond commonly differ in those two alone
            self._stem = encode((self._last_ms << _RANDOM_BITS | self._last_random) >> 10, 12)
        return f"{prefix}_{self._stem}{_PAIRS[last]}"
