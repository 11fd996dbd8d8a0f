"""Render in 8 threads that switch all the time, and compare with what one thread gave.

python -m tests.upo.thread_check [RENDERS]    prints how many were identical; fails if not all.
"""

import random
import sys
from concurrent.futures import ThreadPoolExecutor

from app.upo.pdf import render_upo
from app.upo.xml import parse_upo
from tests.upo import samples

LETTERS = "żółćęśąźńŻÓŁĆĘŚĄŹŃЖучекΛόγοςĐđȘȚ“”€ßæøåÞðŠšŽžŘřŐőŰűĞğİı"


def numbers(count: int) -> list[str]:
    """Invoice numbers each with letters of its own, so that nearly each one cuts a new font."""
    chooser = random.Random(7)
    return [f"FV/{index}/{''.join(chooser.sample(LETTERS, 6))}" for index in range(count)]


def render(number: str) -> bytes:
    """The PDF of one invoice of that number."""
    xml = samples.UpoSample((samples.document(invoice_number=number),)).xml()
    return render_upo(parse_upo(xml), xml_sha256="0" * 64)


def main(renders: int) -> int:
    """Compare; the exit code."""
    different = numbers(max(renders // 4, 1))
    work = [different[index % len(different)] for index in range(renders)]
    sys.setswitchinterval(1e-6)
    # Threads go first: what one thread drew before would lie in the memo.
    with ThreadPoolExecutor(8) as pool:
        drawn = list(pool.map(render, work))
    alone = {number: render(number) for number in different}
    identical = sum(alone[number] == file for number, file in zip(work, drawn, strict=True))
    print(f"{identical} identical")
    return 0 if identical == renders else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5000))
