"""What a program of the host prints, within a time."""

from __future__ import annotations

import asyncio

#: Seconds that a program has.
DEADLINE_S = 5.0


async def said(*command: str) -> tuple[int, bytes]:
    """Exit status and standard output. Raises OSError when it does not end or is not installed."""
    asked = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(DEADLINE_S):
            text, _ = await asked.communicate()
    except TimeoutError:
        asked.kill()
        await asked.wait()
        raise OSError(f"{command[0]} gives no answer within {DEADLINE_S:g} s") from None
    return asked.returncode or 0, text
