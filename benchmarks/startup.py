"""Start-up time of `sophia --help` and `sophia grade --help` compared with a bare Typer program of the same commands and
options.

    python benchmarks/startup.py [RUNS]

The peer is generated: the commands of `sophia_cli/cli/` with empty bodies, in one file that imports only typer. Both
run in turn, so that other load on the machine affects both; the figure is the ratio of the medians.
"""

import inspect
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sophia_cli.cli import app, options

BOUND = 1.3


def bare_program() -> str:
    """Returns the source of the peer: the declarations of our command line without their bodies."""
    declared = inspect.getsource(options).split("from typer import Argument, Option", 1)
    lines = [declared[0], "import typer\nfrom typer import Argument, Option", declared[1]]
    lines += [
        "import sys\no = sys.modules[__name__]",
        "app = typer.Typer(no_args_is_help=True, add_completion=True)",
    ]
    for command in app.app.registered_commands:
        assert command.callback is not None
        source = inspect.getsource(command.callback)
        head = source[: source.index(") -> int:") + len(") -> int:")]
        lines.append(f'@app.command({command.name!r})\n{head}\n    """{(command.callback.__doc__ or "").strip()}"""\n')
    return "\n\n".join([*lines, "app()"])


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def main(runs: int) -> int:
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        peer = Path(folder) / "bare.py"
        peer.write_text(bare_program(), encoding="utf-8")
        for arguments in (["--help"], ["grade", "--help"]):
            ours, theirs, nothing = [], [], []
            for _ in range(runs):
                ours.append(seconds([sys.executable, "-m", "sophia_cli", *arguments]))
                theirs.append(seconds([sys.executable, str(peer), *arguments]))
                nothing.append(seconds([sys.executable, "-c", "pass"]))
            middle = [statistics.median(times) for times in (ours, theirs, nothing)]
            worst = max(worst, middle[0] / middle[1])
            print(
                f"sophia {' '.join(arguments)}: {1000 * middle[0]:.0f} ms, bare typer {1000 * middle[1]:.0f} ms, "
                f"ratio {middle[0] / middle[1]:.2f} (python -c pass: {1000 * middle[2]:.0f} ms)"
            )
    return 0 if worst <= BOUND else 1


if __name__ == "__main__":
    raise SystemExit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 15))
