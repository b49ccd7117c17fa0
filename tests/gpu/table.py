"""The results as tables of Markdown, which the README's are copied from."""

from typing import Any

EMULATED = "emulated device, no GPU: no figures of speed"
REHEARSAL = "a rehearsal: no figures of speed"


def markdown(results: dict[str, Any]) -> str:
    """Machine, tests, benchmarks."""
    machine = results["machine"]
    driver = f"driver {machine['driver']}, " if machine["driver"] else ""
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    lines = [
        f"{machine['date']}, {machine['device']}, {driver}CUDA {machine['cuda'] or 'none'}, "
        f"Python {machine['python']}, {versions}."
    ]
    if results["note"]:
        lines += ["", f"**{results['note'][0].upper()}{results['note'][1:]}.**"]
    lines += tests(results["parts"])
    if "bench" in results["parts"]:
        lines += benchmarks(results["parts"]["bench"])
    return "\n".join(lines) + "\n"


def tests(parts: dict[str, Any]) -> list[str]:
    """One row for each run of tests, then what failed."""
    runs = {name: part for name, part in parts.items() if name != "bench"}
    lines = ["", "| tests | passed | failed | skipped | |", "|---|---|---|---|---|"] if runs else []
    for name, part in runs.items():
        counts = " | ".join(str(part.get(key, "")) for key in ("passed", "failed", "skipped"))
        lines.append(f"| {name} | {counts} | {cell(part['outcome'])} |")
    failures = [
        f"- {name}: `{row['test']}`: {cell(row.get('why', ''))}"
        for name, part in runs.items()
        for row in part.get("failures", [])
    ]
    return lines + (["", *failures] if failures else [])


def benchmarks(part: dict[str, Any]) -> list[str]:
    """One table for each work."""
    lines = ["", f"Benchmarks: {cell(part['outcome'])}."]
    for title in dict.fromkeys(row["work"] for row in part["rows"]):
        rows = [row for row in part["rows"] if row["work"] == title]
        timed = any("median" in row for row in rows)
        head = f"| | {rows[0]['unit']}, median | least | first result, ms | loss |"
        lines += ["", f"### {title}", head if timed else "| | loss |"]
        lines.append("|---|---|---|---|---|" if timed else "|---|---|")
        for row in rows:
            lines.append(f"| {row['name']} | {' | '.join(figures(row, timed))} |")
    return lines


def figures(row: dict[str, Any], timed: bool) -> list[str]:
    """The cells of one competitor: its times where there are any, and its loss or what failed."""
    if reason := row.get("missing") or row.get("error"):
        loss = f"not measured: {cell(reason)}"
    else:
        loss = f"{row['loss']:.7g}" + ("" if row["agrees"] else ", NOT THAT OF NUMPY BY HAND")
        loss += f" ({cell(row['note'])})" if row["note"] else ""
    keys = ("median", "least", "first_ms") if timed else ()
    return [f"{row[key]:.3g}" if key in row else "" for key in keys] + [loss]


def cell(text: str) -> str:
    """On one line, without what would end a cell."""
    return " ".join(str(text).split()).replace("|", "\\|")
