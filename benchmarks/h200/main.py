"""What one Hopper GPU does with this project, against PyTorch and against the targets.

benchmarks/h200.sh [--only PART ...] [--out DIR] [--limit SECONDS] [--tiny] [--json] [--list]

Every part runs in processes of its own, ours and PyTorch's in turn, so that one that fails, hangs
or takes all memory costs the others nothing. It prints one table and one line of JSON, which is
written to DIR/PART.json as well (DIR: --out, or $OUT). What fails is said at once and again at the
end, and the exit status is then 1; a target missed is no failure.
--tiny takes small shapes, for a machine without a GPU: it proves that the script runs.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import queue
import subprocess
import sys
import threading
import time

HERE = pathlib.Path(__file__).parent
FILES = {"ours": "ours.py", "torch": "peer.py"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """seconds: at most, of each side; what one leaves is the next one's, which so has its own
    however long the first one is at it. target: what is wanted, in words.
    """

    seconds: dict[str, int]
    target: str
    about: str


PARTS = {
    "correctness": Part(
        seconds={"ours": 50},
        target="every error below its bound",
        about="cudnn and pallas_gpu against reference: forward, vjp, causal, lengths, weights",
    ),
    "attention": Part(
        seconds={"ours": 75, "torch": 30},
        target="550 TFLOP/s forward at 51,000 tokens",
        about="12 heads x 128, bfloat16; all implementations, tiles, torch's SDPA",
    ),
    "dit": Part(
        seconds={"ours": 55, "torch": 45},
        target="0.8 x diffusers' time",
        about="1.3B DF 540P forward, 97 frames, against diffusers, eager and compiled",
    ),
    "train": Part(
        seconds={"ours": 115, "torch": 35},
        target="45 % of the bfloat16 peak",
        about="1.3B forward, backward and AdamW, by what remat keeps, against diffusers' modules",
    ),
    "vae": Part(
        seconds={"ours": 35, "torch": 30},
        target="1.0 x diffusers' time",
        about="decode of 97 frames at 544 x 960, frame by frame with caches",
    ),
}


def run_side(name: str, side: str, args: argparse.Namespace, seconds: float) -> tuple[list, str]:
    """Runs one side of a part; returns its rows, and what went wrong (empty: nothing)."""
    command = [sys.executable, str(HERE / FILES[side]), name] + ["--tiny"] * args.tiny
    start = time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    lines: queue.Queue = queue.Queue()

    def listen() -> None:
        with child.stdout:
            for line in child.stdout:
                lines.put(line)
        lines.put(None)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    rows, said = [], []
    while True:
        left = start + seconds - time.monotonic()
        try:
            line = lines.get(timeout=max(left, 0.01))
        except queue.Empty:
            child.kill()
            child.wait()
            listener.join(5)
            return rows, f"not done in {seconds:.0f} s; its last words:\n" + "".join(said[-5:])
        if line is None:
            break
        if line.startswith("ROW "):
            rows.append({"side": side, **json.loads(line[4:])})
            print(f"  {time.monotonic() - start:5.1f} s  {side}: {rows[-1].get('what', '')}")
        else:
            said.append(line)
    if child.wait():
        return rows, f"exit status {child.returncode}; its last words:\n" + "".join(said[-15:])
    if not rows:
        return rows, "it measured nothing"
    return rows, ""


def run_part(name: str, args: argparse.Namespace, ends: float) -> dict:
    """Returns the report of a part: rows of all sides, ratios, and what went wrong by side."""
    part, start = PARTS[name], time.monotonic()
    print(f"\n{name}: {part.about}")
    rows, failures, given = [], {}, 0
    for side, seconds in part.seconds.items():
        given += seconds * (10 if args.tiny else 1)  # a GPU is not what tiny shapes are slow on
        limit = min(start + given, ends) - time.monotonic()
        found, wrong = ([], "no time left") if limit < 1 else run_side(name, side, args, limit)
        rows += found
        failures |= {side: wrong} if wrong else {}
    failures |= {
        f"{row['side']}: {row['what']}": row["failed"] for row in rows if row.get("failed")
    }
    report = {"part": name, "target": part.target, "tiny": args.tiny}
    report["seconds"] = round(time.monotonic() - start, 1)
    return report | {"rows": rows, "ratio": ratio(rows), "failures": failures}


def ratio(rows: list[dict]) -> float | None:
    """Returns our best time over PyTorch's best; None without both."""
    best = {
        side: min((r["ms"] for r in rows if r["side"] == side and r.get("ms")), default=None)
        for side in ("ours", "torch")
    }
    return round(best["ours"] / best["torch"], 3) if all(best.values()) else None


def table(rows: list[dict]) -> str:
    """Returns the rows under the names of all their values."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    texts = [names] + [[shown(row.get(name)) for name in names] for row in rows]
    widths = [max(len(text[i]) for text in texts) for i in range(len(names))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(text, widths, strict=True)).rstrip()
        for text in texts
    )


def shown(value) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return " ".join(str(value).split())[:90]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument("--out", type=pathlib.Path, default=os.environ.get("OUT"))
    parser.add_argument("--limit", type=float, help="seconds for all (default 470, 10 x if tiny)")
    parser.add_argument("--tiny", action="store_true", help="small shapes, on any machine")
    parser.add_argument("--json", action="store_true", help="one object alone: reports by part")
    parser.add_argument("--list", action="store_true", help="say what the parts are")
    args = parser.parse_args()
    if args.list:
        for name, part in PARTS.items():
            print(
                f"{name:12} {sum(part.seconds.values()):4} s  {part.about}; target: {part.target}"
            )
        return
    ends = time.monotonic() + (args.limit or 470 * (10 if args.tiny else 1))
    with contextlib.redirect_stdout(sys.stderr if args.json else sys.stdout):
        reports = {name: reported(name, args, ends) for name in args.only}
    if args.json:
        print(json.dumps(reports))
    failed = [f"{name}, {what}" for name, report in reports.items() for what in report["failures"]]
    if failed:
        sys.exit(f"{len(failed)} FAILED: " + "; ".join(failed))


def reported(name: str, args: argparse.Namespace, ends: float) -> dict:
    """Returns the report of a part, which is printed, and written where there is a place for it."""
    report = run_part(name, args, ends)
    line = json.dumps(report)
    print(f"\n{table(report['rows'])}\ntarget: {report['target']}", end="")
    print(f"; ours / torch {report['ratio']}" if report["ratio"] else "")
    print(line, flush=True)
    if args.out is not None:
        out = pathlib.Path(args.out)
        out.mkdir(parents=True, exist_ok=True)
        (out / f"{name}.json").write_text(line + "\n")
    for what, why in report["failures"].items():
        print(f"FAILED {name}, {what}: {why}", flush=True)
    return report


if __name__ == "__main__":
    main()
