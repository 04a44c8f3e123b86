"""`relay check-receiver`: the checks are sent one by one over real connections, and reported as they come."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import Any

import aiohttp
from yarl import URL

from relay import __version__
from relay.cli.output import Exit, Json, counted, echo, echo_json, say
from relay.cli.shell import client, why_no_answer
from relay.core.netguard import ForbiddenAddress
from relay.core.terminal import one_line
from relay.delivery.remedies import explain_status
from relay.diagnosis.checks import Answer, Check, Finding, Result, judge, left_out
from relay.diagnosis.misreadings import misreadings
from relay.diagnosis.specimen import Sent, Specimen

PIECES = 4
"""In how many pieces a slow body comes."""
PAUSE_S = 0.5
"""How long the pause before each of them is."""

_UNVERIFIED = (400, 401, 403, 422, 500)
"""What receivers answer where a signature is not as they think it must be."""

_WORDS = {
    Result.FINE: "ok",
    Result.REMARK: "remark",
    Result.FAULT: "FAULT",
    Result.NOT_APPLICABLE: "n/a",
    Result.NOT_TRIED: "–",
}

Pause = Callable[[float], Awaitable[None]]
Show = Callable[[Finding], None]


async def run(
    specimen: Specimen,
    series: Collection[Check],
    limit_ms: int,
    wall_ms: Callable[[], int],
    show: Show,
    pause: Pause = asyncio.sleep,
) -> list[Finding]:
    """Send a series of checks, whose first is the right delivery; without an answer to that one the others rest."""
    findings: list[Finding] = []
    hopeless = ""
    async with client(limit_ms / 1000) as http:
        for check in series:
            why_not = check.hindrance(specimen)
            if hopeless:
                finding = left_out(check, Result.NOT_TRIED, hopeless)
            elif why_not is not None:
                finding = left_out(check, Result.NOT_APPLICABLE, why_not)
            else:
                answer = await _send(http, specimen.url, check.make(specimen, wall_ms()), pause)
                finding = judge(check, answer, limit_ms)
                if not findings and finding.result is Result.FAULT:
                    hopeless = "the right delivery was not accepted"
                    finding = await _explained(http, specimen, finding, wall_ms, pause)
            findings.append(finding)
            show(finding)
    return findings


async def _explained(
    http: aiohttp.ClientSession, specimen: Specimen, refusal: Finding, wall_ms: Callable[[], int], pause: Pause
) -> Finding:
    """Find out why a right delivery was refused: send what would be right to a receiver that misreads the contract."""
    assert refusal.answer is not None
    if refusal.answer.status not in _UNVERIFIED or not specimen.contract.signs:
        return refusal
    for misreading in misreadings(specimen):
        answer = await _send(http, specimen.url, misreading.make(wall_ms()), pause)
        if answer.status is not None and 200 <= answer.status <= 299:
            return refusal._replace(remedy=misreading.says)
    return refusal


async def _send(http: aiohttp.ClientSession, url: str, sent: Sent, pause: Pause) -> Answer:
    headers = {"User-Agent": f"relay/{__version__}", "Accept": "*/*", "Accept-Encoding": "identity"}
    headers |= {**sent.headers, "Content-Length": str(len(sent.body))}
    began = time.monotonic()
    body = _pieces(sent.body, PIECES if sent.slowly else 1, pause)
    try:
        async with http.post(URL(url, encoded=True), data=body, headers=headers, allow_redirects=False) as answer:
            meaning = explain_status(answer.status, answer.raw_headers, url)
            return Answer(answer.status, _since(began), meaning=meaning)
    except (aiohttp.ClientError, OSError, ForbiddenAddress) as error:
        return Answer(None, _since(began), silence=why_no_answer(error))


async def _pieces(body: bytes, count: int, pause: Pause) -> AsyncIterator[bytes]:
    size = -(-len(body) // count) or 1
    for start in range(0, len(body), size):
        if count > 1:
            await pause(PAUSE_S)
        yield body[start : start + size]


def _since(began: float) -> float:
    return (time.monotonic() - began) * 1000


# -- the report --------------------------------------------------------------------------------------------------------


def show_line(finding: Finding) -> None:
    """Print one finding as it comes: what was sent, what came of it, and what to do."""
    answer = finding.answer
    status = "–" if answer is None or answer.status is None else str(answer.status)
    took = "" if answer is None else f"{answer.took_ms:.0f} ms"
    line = f"{_WORDS[finding.result]:8}{finding.check:15}{status:>5}{took:>10}  {finding.sends}: {finding.says}"
    echo(one_line(line))
    if finding.remedy:
        echo(f"{'':8}{finding.remedy}")


def report(specimen: Specimen, findings: Collection[Finding], *, as_json: bool) -> int:
    """Say what was found in all; the exit code."""
    faults = sum(finding.result is Result.FAULT for finding in findings)
    code = _exit_code(findings, faults)
    if as_json:
        shown = {"url": specimen.url, "contract": specimen.contract.name, "type": specimen.type, "faults": faults}
        echo_json(shown | {"findings": [_as_json(finding) for finding in findings]})
    elif code != Exit.UNREACHABLE:
        say(f"{counted(faults, 'fault')}." if faults else "No fault was found.")
    return code


def _exit_code(findings: Collection[Finding], faults: int) -> int:
    first = next(iter(findings))
    if first.answer is not None and first.answer.status is None:
        return Exit.UNREACHABLE
    return Exit.FAILED if faults else Exit.FINE


def _as_json(finding: Finding) -> Json:
    answer = finding.answer
    answered: dict[str, Any] = {"status": None, "took_ms": None}
    if answer is not None:
        answered = {"status": answer.status, "took_ms": round(answer.took_ms)}
    return {
        "check": finding.check,
        "sends": finding.sends,
        "must": finding.must,
        "result": finding.result,
        **answered,
        "says": finding.says,
        "remedy": finding.remedy or None,
    }
