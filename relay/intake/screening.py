"""What must hold of a JSON body before anything decodes it: UTF-8 throughout, and not nested too deeply."""

import re
from itertools import accumulate

from relay.api import problems
from relay.api.problems import Refused

# Possessive, and with its end optional, so that it never goes back: an unfinished string costs no more than a whole one.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


def screen(body: bytes, max_depth: int) -> None:
    """Refuse (400) what is not UTF-8, or nested deeper than `max_depth` arrays and objects.

    The JSON decoder skips over strings it only passes on, and recurses without a limit of ours.
    """
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise Refused(problems.malformed_json(f"The body is not UTF-8 (byte {error.start}).")) from None
    if is_deeper(body, max_depth):
        detail = f"The body is nested too deeply; {max_depth} levels are allowed (server.max_depth). Send flatter data."
        raise Refused(problems.malformed_json(detail))


def is_deeper(body: bytes, max_depth: int) -> bool:
    """Whether JSON text opens more than `max_depth` arrays and objects inside one another.

    No text is deeper than the number of its opening brackets, which settles most cases. The exact count holds up to the
    first error of what is no JSON, and there the decoder stops.
    """
    if body.count(b"[") + body.count(b"{") <= max_depth:
        return False
    brackets = _STRING.sub(b"", body).translate(None, _NO_BRACKETS)
    return max(accumulate(map(_STEPS.__getitem__, brackets)), default=0) > max_depth
