#!/usr/bin/env python3
"""Checks what the crate depends on, from `cargo metadata` and `cargo tree` alone.

The checks `deny` and `unused` cover what cargo-deny and cargo-machete would say of this crate, without the ten minutes
that it takes to build those two. The rules themselves are in deny.toml, which cargo-deny reads too.
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent


def cargo(*arguments: str) -> str:
    done = subprocess.run(["cargo", *arguments], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def metadata() -> dict:
    return json.loads(cargo("metadata", "--format-version=1", "--locked", "--all-features"))


def own_package(of: dict) -> dict:
    """The package of this folder, which is the crate."""
    return next(package for package in of["packages"] if package["id"] == of["resolve"]["root"])


# --- features ---------------------------------------------------------------------------------------------------------


def list_features() -> list[str]:
    """Every feature that a user picks by name: all but the set of default ones."""
    return sorted(name for name in own_package(metadata())["features"] if name != "default")


def members(of: dict) -> list[dict]:
    """The packages of the workspace."""
    return [package for package in of["packages"] if package["id"] in of["workspace_members"]]


# --- how many crates are compiled -------------------------------------------------------------------------------------


def crates_of(package: str, *arguments: str) -> list[str]:
    tree = cargo("tree", "--locked", "-p", package, "--prefix", "none", *arguments)
    return sorted({" ".join(line.split()[:2]) for line in tree.splitlines() if line.strip()})


def check_pure(at_most: int, without: list[str]) -> list[str]:
    crates = crates_of("winddown", "-e", "normal,build", "--no-default-features")
    print(f"{len(crates)} crates without default features: {', '.join(crates)}")
    problems = []
    if len(crates) > at_most:
        problems.append(f"expected at most {at_most} crates without default features, got {len(crates)}")
    names = {crate.split()[0] for crate in crates}
    problems += [f"`{name}` must not be needed without default features" for name in without if name in names]
    return problems


def check_defaults(at_most: int) -> list[str]:
    crates = crates_of("winddown", "-e", "normal,build")
    print(f"{len(crates)} crates with default features: {', '.join(crates)}")
    problem = f"expected at most {at_most} crates with default features, got {len(crates)}"
    return [problem] if len(crates) > at_most else []


def check_first(at_most: int) -> list[str]:
    count = len(crates_of("wordcount", "-e", "normal,build"))
    print(f"{count} crates for `cargo run --release -p wordcount`")
    return [f"expected at most {at_most} crates for the first command, got {count}"] if count > at_most else []


# --- the lowest version of Rust ---------------------------------------------------------------------------------------


def check_msrv() -> list[str]:
    """What is locked builds on the version that we promise. A dependency that states none is taken at its word."""

    def version(text: str) -> tuple[int, ...]:
        return (*map(int, text.split(".")), 0, 0)[:3]

    everything = metadata()
    ours = own_package(everything)["rust_version"]
    print(f"Rust {ours} is promised")
    return [
        f"{package['name']} {package['version']} needs Rust {package['rust_version']}, and {ours} is promised"
        for package in everything["packages"]
        if package["rust_version"] and version(package["rust_version"]) > version(ours)
    ]


# --- licences, sources, bans ------------------------------------------------------------------------------------------


class Licence:
    """An SPDX expression, judged against a set of allowed licences. `/` is the old way to write `OR`."""

    def __init__(self, text: str, allowed: set[str]):
        self.tokens = re.findall(r"\(|\)|[^\s()]+", text.replace("/", " OR "))
        self.allowed = allowed

    def is_allowed(self) -> bool:
        verdict = self.either()
        if self.tokens:
            raise ValueError(f"unexpected `{self.tokens[0]}`")
        return verdict

    def either(self) -> bool:
        verdict = self.both()
        while self.take("OR"):
            verdict = self.both() or verdict
        return verdict

    def both(self) -> bool:
        verdict = self.single()
        while self.take("AND"):
            verdict = self.single() and verdict
        return verdict

    def single(self) -> bool:
        if self.take("("):
            verdict = self.either()
            if not self.take(")"):
                raise ValueError("a parenthesis is not closed")
            return verdict
        if not self.tokens or self.tokens[0] in {")", "OR", "AND", "WITH"}:
            raise ValueError("a licence is missing")
        name = self.tokens.pop(0)
        if self.take("WITH"):
            if not self.tokens:
                raise ValueError("an exception is missing")
            exception = self.tokens.pop(0)
            # An exception only adds permissions.
            return name in self.allowed or f"{name} WITH {exception}" in self.allowed
        return name in self.allowed

    def take(self, token: str) -> bool:
        found = bool(self.tokens) and self.tokens[0] == token
        if found:
            self.tokens.pop(0)
        return found


def check_deny() -> list[str]:
    rules = tomllib.loads((ROOT / "deny.toml").read_text())
    allowed = set(rules["licenses"]["allow"])
    registries = {f"registry+{url}" for url in rules["sources"]["allow-registry"]}
    banned = {ban["crate"]: ban["reason"] for ban in rules["bans"]["deny"]}
    everything = metadata()
    own = set(everything["workspace_members"])
    problems = []
    for package in everything["packages"]:
        name = f"{package['name']} {package['version']}"
        try:
            if not Licence(package["license"] or "", allowed).is_allowed():
                problems.append(f"{name}: licence `{package['license']}` is not allowed by deny.toml")
        except ValueError as error:
            problems.append(f"{name}: can't read the licence `{package['license']}`: {error}")
        if package["id"] not in own and package["source"] not in registries:
            problems.append(f"{name}: comes from {package['source']}, not from an allowed registry")
        if package["name"] in banned:
            problems.append(f"{name}: banned: {banned[package['name']]}")
    print(f"{len(everything['packages'])} packages looked at")
    return problems


# --- unused dependencies ----------------------------------------------------------------------------------------------

# Where each kind of dependency can be named, in the folder of its package. A normal one that only tests name should be a
# dev-dependency.
PLACES = {
    None: ["src"],
    "dev": ["src", "tests", "examples", "benches", "ui-tests"],
    "build": ["build.rs"],
}


def sources(package: pathlib.Path, others: list[pathlib.Path], places: list[str], keep_comments: bool) -> str:
    files = []
    for place in map(package.joinpath, places):
        files += [place] if place.is_file() else sorted(place.rglob("*.rs"))
    # A package may lie below another one.
    files = [file for file in files if not any(other in file.parents for other in others)]
    text = "\n".join(file.read_text() for file in files)
    # Comments that are examples count as dev code, so they are taken out only for the other kinds.
    return text if keep_comments else re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE)


def check_unused() -> list[str]:
    packages = members(metadata())
    folders = {package["id"]: pathlib.Path(package["manifest_path"]).parent for package in packages}
    problems = []
    for package in packages:
        folder = folders[package["id"]]
        below = [other for other in folders.values() if folder in other.parents]
        problems += unused_of(package, folder, below)
    return problems


def unused_of(package: dict, folder: pathlib.Path, below: list[pathlib.Path]) -> list[str]:
    ignored = set(((package["metadata"] or {}).get("cargo-machete") or {}).get("ignored", []))
    texts = {kind: sources(folder, below, places, keep_comments=kind == "dev") for kind, places in PLACES.items()}
    # An example in the README runs as a doctest.
    readme = folder / "README.md"
    texts["dev"] += readme.read_text() if readme.exists() else ""
    problems = []
    for dependency in package["dependencies"]:
        ident = (dependency["rename"] or dependency["name"]).replace("-", "_")
        named = re.search(rf"\b{ident}\s*(::|;|\bas\b)", texts[dependency["kind"]])
        if not named and dependency["name"] not in ignored:
            kind = f"{dependency['kind'] or 'normal'} dependency"
            problems.append(f"{package['name']}: {kind} `{dependency['name']}`: no source file in its reach names it")
    print(f"{package['name']}: {len(package['dependencies'])} dependencies looked at")
    return problems


# ----------------------------------------------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list-features")
    pure = commands.add_parser("pure")
    pure.add_argument("--at-most", type=int, required=True)
    pure.add_argument("--without", type=lambda names: names.split(","), required=True)
    defaults = commands.add_parser("defaults")
    defaults.add_argument("--at-most", type=int, required=True)
    first = commands.add_parser("first")
    first.add_argument("--at-most", type=int, required=True)
    commands.add_parser("msrv")
    commands.add_parser("deny")
    commands.add_parser("unused")
    options = parser.parse_args()
    match options.command:
        case "list-features":
            print("\n".join(list_features()))
            return 0
        case "pure":
            problems = check_pure(options.at_most, options.without)
        case "defaults":
            problems = check_defaults(options.at_most)
        case "first":
            problems = check_first(options.at_most)
        case "msrv":
            problems = check_msrv()
        case "deny":
            problems = check_deny()
        case "unused":
            problems = check_unused()
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
