#!/usr/bin/env python3
"""Writes the bill of materials of the executables, CycloneDX 1.5, and the texts of the licences in it, which all but a few
ask to be handed out with what is built:

    deploy/release/sbom.py NAME.cdx.json [NAME@VERSION=LICENCE[=FILE]...]     # and NAME.licences.txt

In it is what becomes part of them and nothing else: the crates, as cargo resolves them for these processors, without those
that macros, build scripts and tests are made of; and what is linked besides, which the caller names, perhaps with the
licence's text: rust-std@1.95.0="MIT OR Apache-2.0" musl@1.2.5=MIT=COPYRIGHT

A script, because cargo-cyclonedx, which could do it too, is one more program that each release would build of many crates,
and lists what `cargo metadata` resolves: macros, and features that only tests ask for. Python is there, for zig
(requirements.txt).
"""

import datetime
import json
import os
import re
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
TARGETS = ["x86_64-unknown-linux-musl", "aarch64-unknown-linux-musl"]
# What stands in the file that such a crate names in place of an expression.
IN_A_FILE = {"webpki": "ISC"}


def tree(target):
    """What cargo says: (depth, name, version, licence) of each crate, beneath the one that needs it."""
    command = ["cargo", "tree", "--locked", "--package", "b24proxy", "--edges", "normal,no-proc-macro", "--target", target]
    command += ["--prefix", "depth", "--no-dedupe", "--format", "\t{p}\t{l}"]
    lines = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    for line in filter(None, lines):
        depth, package, licence = line.split("\t")
        name, version = package.split()[:2]
        yield int(depth), name, version.removeprefix("v"), licence


def checksums():
    with open(os.path.join(ROOT, "Cargo.lock"), encoding="utf-8") as lock:
        found = re.findall(r'name = "(.*)"\nversion = "(.*)"\n(?:source = .*\nchecksum = "(.*)"\n)?', lock.read())
    return {(name, version): checksum for name, version, checksum in found}


def component(name, version, licence, purl):
    licence = licence or IN_A_FILE[name]
    # Before there were expressions of SPDX, cargo took a slash for OR; before SPDX 3.0, AGPL-3.0 was what is -only now.
    licence = re.sub(r"\bAGPL-3\.0(?!-)", "AGPL-3.0-only", licence.replace("/", " OR "))
    described = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
    return {**described, "licenses": [{"expression": licence}]}


def parts(linked):
    """NAME@VERSION=LICENCE[=FILE]."""
    return re.fullmatch("(.+?)@(.+?)=([^=]+)(?:=(.+))?", linked).groups()


def bill(linked):
    sums = checksums()
    components, needs = {}, {}
    for target in TARGETS:
        above = []
        for depth, name, version, licence in tree(target):
            purl = f"pkg:cargo/{name}@{version}"
            if purl not in components:
                components[purl] = component(name, version, licence, purl)
                needs[purl] = set()
                if sums[name, version]:
                    components[purl]["hashes"] = [{"alg": "SHA-256", "content": sums[name, version]}]
            del above[depth:]
            if above:
                needs[above[-1]].add(purl)
            above.append(purl)
    program = above[0]
    for text in linked:
        name, version, licence, _ = parts(text)
        purl = f"pkg:generic/{name}@{version}"
        components[purl] = component(name, version, licence, purl)
        needs[purl] = set()
        needs[program].add(purl)
    described = components.pop(program)
    described["type"] = "application"
    epoch = os.environ.get("SOURCE_DATE_EPOCH") or subprocess.run(
        ["sh", os.path.join(HERE, "epoch.sh")], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    moment = datetime.datetime.fromtimestamp(int(epoch), datetime.timezone.utc)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"timestamp": moment.strftime("%Y-%m-%dT%H:%M:%SZ"), "component": described},
        "components": [components[purl] for purl in sorted(components)],
        "dependencies": [{"ref": purl, "dependsOn": sorted(needs[purl])} for purl in sorted(needs)],
    }


def texts(components, linked):
    """Each text once, below the names of the crates that have it in their package."""
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", TARGETS[0]]
    metadata = json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)
    folders = {(each["name"], each["version"]): os.path.dirname(each["manifest_path"]) for each in metadata["packages"]}
    owners = {}
    for each in components:
        folder = folders.get((each["name"], each["version"]))
        # What is linked besides is no crate.
        for name in sorted(os.listdir(folder)) if folder else []:
            path = os.path.join(folder, name)
            if re.match("licen[cs]e|copying|copyright|notice|unlicense", name, re.IGNORECASE) and os.path.isfile(path):
                with open(path, encoding="utf-8") as file:
                    owners.setdefault(file.read().strip(), []).append(f"{each['name']} {each['version']}")
    for name, version, _, path in map(parts, linked):
        if path:
            with open(path, encoding="utf-8") as file:
                owners.setdefault(file.read().strip(), []).append(f"{name} {version}")
    rule = "-" * 72
    return "".join(f"{rule}\n{', '.join(dict.fromkeys(names))}\n{rule}\n\n{text}\n\n" for text, names in owners.items())


if len(sys.argv) < 2 or not sys.argv[1].endswith(".cdx.json"):
    sys.exit("usage: deploy/release/sbom.py NAME.cdx.json [NAME@VERSION=LICENCE[=FILE]...]")
written = bill(sys.argv[2:])
with open(sys.argv[1], "w", encoding="utf-8") as file:
    json.dump(written, file, indent=1)
    file.write("\n")
with open(sys.argv[1].removesuffix(".cdx.json") + ".licences.txt", "w", encoding="utf-8") as file:
    file.write(texts(written["components"], sys.argv[2:]))
