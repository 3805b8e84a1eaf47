"""The SBOM of these programs has what the schema of CycloneDX 1.5 demands, and names every library that they load.

    sbom.py SBOM PROGRAM...
"""
import json
import re
import shutil
import subprocess
import sys

SKIPPED = 77
# bom-1.5.schema.json: what is required, what else is known, and the forms, of the objects that are in ours.
KNOWN = {
    "bom": ({"bomFormat", "specVersion", "version"}, {"serialNumber", "metadata", "components", "dependencies"}),
    "metadata": (set(), {"timestamp", "tools", "component", "properties"}),
    "component": ({"type", "name"}, {"bom-ref", "version", "purl", "licenses", "externalReferences", "properties"}),
    "dependency": ({"ref"}, {"dependsOn"}),
    "property": (set(), {"name", "value"}),
    "reference": ({"url", "type"}, set()),
}
TYPES = {"application", "framework", "library", "container", "platform", "operating-system", "device", "device-driver", "firmware",
         "file", "machine-learning-model", "data"}


def faults(kind, value):
    required, more = KNOWN[kind]
    found = [f"{kind} lacks {name}: {value}" for name in required - set(value)]
    return found + [f"{kind} has {name}" for name in set(value) - required - more]


def component_faults(one):
    found = faults("component", one)
    if one.get("type") not in TYPES:
        found.append(f"no type of a component: {one.get('type')}")
    for licence in one.get("licenses", []):
        if set(licence) != {"license"} or len(licence["license"]) != 1 or set(licence["license"]) - {"id", "name"}:
            found.append(f"a licence has an id or a name: {licence}")
    for reference in one.get("externalReferences", []):
        found += faults("reference", reference)
    for each in one.get("properties", []):
        found += faults("property", each)
    return found


def bom_faults(bom):
    found = faults("bom", bom) + faults("metadata", bom["metadata"])
    for one in [bom["metadata"]["component"], *bom["metadata"]["tools"]["components"], *bom["components"]]:
        found += component_faults(one)
    for one in bom["dependencies"]:
        found += faults("dependency", one)
        if len(one["dependsOn"]) != len(set(one["dependsOn"])):
            found.append(f"names one twice: {one}")
    if (bom["bomFormat"], bom["specVersion"], bom["version"]) != ("CycloneDX", "1.5", 1):
        found.append("is no CycloneDX 1.5")
    if not re.fullmatch(r"urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", bom["serialNumber"]):
        found.append("has no serial number")
    if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", bom["metadata"]["timestamp"]):
        found.append("has no time")
    return found


def loaded(programs):
    """Names of the packages that own what ldd tells."""
    paths = set()
    for program in programs:
        said = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
        paths |= set(re.findall(r"(?:=> )?(/\S+) \(0x", said))
    names = {path: {path, path.removeprefix("/usr"), "/usr" + path} for path in paths}
    said = subprocess.run(["dpkg-query", "-S", *set().union(*names.values())], capture_output=True, text=True).stdout
    owners = {file: owner.split(":")[0] for owner, file in (line.rsplit(": ", 1) for line in said.splitlines() if not line.startswith("diversion by "))}
    missing = [path for path in paths if not names[path] & set(owners)]
    assert not missing, f"no package owns {missing}"
    return {owners[file] for path in paths for file in names[path] & set(owners)}


def main():
    sbom, programs = sys.argv[1], sys.argv[2:]
    if not shutil.which("dpkg-query"):
        print("there are no packages of Debian here")
        sys.exit(SKIPPED)
    text = subprocess.run([sbom, "1.2.3", *programs, "+base-files"], check=True, capture_output=True, text=True).stdout
    bom = json.loads(text)
    assert not bom_faults(bom), bom_faults(bom)
    libraries = {one["name"]: one for one in bom["components"] if one["type"] == "library"}
    wanted = loaded(programs) | {"base-files"}
    assert set(libraries) == wanted, set(libraries) ^ wanted
    said = subprocess.run(["dpkg-query", "-W", "-f=${Package} ${Version}\n", *libraries], check=True, capture_output=True, text=True).stdout
    installed = {tuple(line.split()) for line in said.splitlines()}
    for name, one in libraries.items():
        assert (name, one["version"]) in installed, one
        assert one["purl"].startswith(f"pkg:deb/debian/{name}@") or "/" + name + "@" in one["purl"], one
    for name in ("librdkafka1", "libjansson4"):  # their copyright files say it for machines
        assert libraries[name]["licenses"], libraries[name]
    references = [one["bom-ref"] for one in bom["components"]] + ["weir"]
    assert len(references) == len(set(references)), "two components have one reference"
    for one in bom["dependencies"]:
        assert one["ref"] in references and set(one["dependsOn"]) <= set(references), one
    direct = next(one["dependsOn"] for one in bom["dependencies"] if one["ref"] == "weir")
    assert libraries["librdkafka1"]["bom-ref"] in direct, direct
    # A check that cannot fail is none.
    assert bom_faults(json.loads(text.replace('"type":"library"', '"type":"book"')))
    assert bom_faults({**bom, "specVersion": "1.4"})
    print(f"{len(libraries)} libraries, {len(direct)} of them asked for by the programs themselves")


if __name__ == "__main__":
    main()
