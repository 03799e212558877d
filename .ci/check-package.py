#!/usr/bin/env python3
"""Checks the crate as users get it: the files of the package, that it builds alone, and that the README's first example
works with the dependencies that the README names.

It needs only what a build needs, and writes only to `target/`.
"""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = ROOT / "target" / "package"
# How long the example may take to print something or to stop. It needs less than a second.
PATIENCE = 60

# Files that users do not need. They enter a package unnoticed; this check forces a decision.
UNWANTED = re.compile(r"^(\.ci|\.github|benches|deploy|scripts|tests|ui-tests|examples/wordcount)/|^docs/performance/data\.json$")
WANTED = ["Cargo.toml", "README.md", "CHANGELOG.md", "LICENSE-APACHE", "LICENSE-MIT", "src/lib.rs", "examples/embedded.rs"]
AT_MOST_BYTES = 1_000_000


def cargo(*arguments: str, folder: pathlib.Path = ROOT) -> str:
    environment = os.environ | {"CARGO_TARGET_DIR": str(ROOT / "target")}
    done = subprocess.run(["cargo", *arguments], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"`cargo {' '.join(arguments)}` in {folder} failed; its messages are above")
    return done.stdout


def packaged(version: str) -> pathlib.Path:
    """Packs the crate, and unpacks it again."""
    # Packs the working tree, committed or not. The build below replaces that of `--verify`, and does less.
    subprocess.run(
        ["cargo", "package", "--locked", "-p", "winddown", "--allow-dirty", "--no-verify", "--quiet"], cwd=ROOT, check=True
    )
    archive = TARGET / f"winddown-{version}.crate"
    size = archive.stat().st_size
    with tarfile.open(archive) as file:
        names = [name.split("/", 1)[1] for name in file.getnames()]
        folder = TARGET / "unpacked"
        shutil.rmtree(folder, ignore_errors=True)
        # Only later releases of Python 3.11 have the filter; newer versions require one.
        file.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    print(f"{len(names)} files, {size:,} bytes packed")
    problems = [f"{name}: no user needs it; see `include` in Cargo.toml" for name in names if UNWANTED.search(name)]
    problems += [f"{name} is missing" for name in WANTED if name not in names]
    if size > AT_MOST_BYTES:
        problems.append(f"expected at most {AT_MOST_BYTES:,} bytes, got {size:,}")
    if problems:
        sys.exit("\n".join(problems))
    return folder / f"winddown-{version}"


def first_block(language: str, text: str) -> str:
    found = re.search(rf"^```{language}[^\n]*\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    if not found:
        sys.exit(f"README.md: expected a block of {language}")
    return found[1]


def downstream(crate: pathlib.Path) -> pathlib.Path:
    """A user's program: the first example of the README, with the dependencies that the README names."""
    readme = (crate / "README.md").read_text()
    dependencies = tomllib.loads(first_block("toml", readme))["dependencies"]
    lines = []
    for name, dependency in dependencies.items():
        features = ", ".join(f'"{feature}"' for feature in dependency.get("features", []))
        place = f'path = "{crate}"' if name == "winddown" else f'version = "{dependency["version"]}"'
        lines.append(f"{name} = {{ {place}, features = [{features}] }}\n")
    folder = TARGET / "downstream"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "src").mkdir(parents=True)
    manifest = '[package]\nname = "downstream"\nversion = "0.0.0"\nedition = "2024"\n\n[workspace]\n\n[dependencies]\n'
    (folder / "Cargo.toml").write_text(manifest + "".join(lines))
    (folder / "src" / "main.rs").write_text(first_block("rust", readme))
    # The versions that are tested here; users get newer ones.
    shutil.copy(ROOT / "Cargo.lock", folder / "Cargo.lock")
    cargo("build", "--quiet", folder=folder)
    return ROOT / "target" / "debug" / "downstream"


def wait_for(text: str, output: pathlib.Path, process: subprocess.Popen) -> str:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        if text in output.read_text():
            return output.read_text()
        time.sleep(0.05)
    sys.exit(f"expected `{text}` from the first example, got: {output.read_text()}")


def wait_for_handler(process: subprocess.Popen) -> None:
    """Until the program handles Ctrl-C; before, the signal would just end it."""
    status = pathlib.Path(f"/proc/{process.pid}/status")
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        if not status.exists():
            time.sleep(1)  # Not Linux.
            return
        caught = int(re.search(r"^SigCgt:\s*(\w+)", status.read_text(), flags=re.MULTILINE)[1], 16)
        if caught >> (signal.SIGINT - 1) & 1:
            return
        time.sleep(0.05)
    sys.exit("the first example does not handle Ctrl-C")


def run(program: pathlib.Path, folder: pathlib.Path) -> tuple[int, int]:
    """Runs the example for a moment and stops it with Ctrl-C. Gives the number it began with, and its last epoch."""
    output = folder / "output"
    with output.open("w") as file:
        process = subprocess.Popen([program], cwd=folder, stdout=file, stderr=subprocess.STDOUT)
    try:
        said = wait_for("counting from", output, process)
        wait_for_handler(process)
        time.sleep(0.5)  # Lets it count for a moment.
        process.send_signal(signal.SIGINT)
        code = process.wait(timeout=PATIENCE)
    finally:
        process.kill()
    receipt = output.read_text()
    print(receipt, end="")
    epoch = re.search(r"checkpointed \(epoch (\d+)\)", receipt)
    if code != 0 or not epoch:
        sys.exit(f"expected a receipt of a checkpoint and exit code 0, got exit code {code}")
    return int(re.search(r"counting from (\d+)", said)[1]), int(epoch[1])


def main() -> None:
    version = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["version"]
    crate = packaged(version)
    cargo("check", "--quiet", "--locked", "--lib", folder=crate)
    program = downstream(crate)
    with tempfile.TemporaryDirectory() as folder:
        runs = [run(program, pathlib.Path(folder)) for _ in range(2)]
    (began, _), (went_on, epoch) = runs
    if began != 0 or went_on == 0 or epoch != 2:
        sys.exit(f"expected the second run to go on from the first one's checkpoint, got (number, epoch) {runs}")


if __name__ == "__main__":
    main()
