"""The four packages carry one version, pin one another to it, and say so when asked."""

import importlib
import re


def test_versions_are_lock_step(noxfile):
    versions = {package: noxfile.metadata(package)["version"] for package in noxfile.PACKAGES}
    assert len(set(versions.values())) == 1, versions


def test_siblings_are_pinned_exactly(noxfile):
    for package in noxfile.PACKAGES:
        version = noxfile.metadata(package)["version"]
        siblings = [need for need in noxfile.requirements(package) if need.startswith("iroot-")]
        expected = ["iroot-coeffs", "iroot-kernels", "iroot-precond"] if package == "iroot-solve" else []
        assert sorted(siblings) == [f"{name}=={version}" for name in expected]


def test_other_needs_are_floors(noxfile):
    for package in noxfile.PACKAGES:
        for need in noxfile.requirements(package):
            assert need.startswith("iroot-") or re.fullmatch(r"[a-z]+>=[\d.]+", need), need


def test_coeffs_needs_numpy_only_and_nobody_declares_triton(noxfile):
    assert [re.split(r"\W", need)[0] for need in noxfile.requirements("iroot-coeffs")] == ["numpy"]
    assert not [need for name in noxfile.PACKAGES for need in noxfile.requirements(name) if "triton" in need]


def test_modules_report_the_version_of_their_wheel(noxfile):
    for package, modules in noxfile.PACKAGES.items():
        for module in modules:
            assert importlib.import_module(module).__version__ == noxfile.metadata(package)["version"]


def test_constraints_lie_within_the_floors(noxfile):
    pins = dict(re.findall(r"^([\w-]+)==([\d.]+)", noxfile.CONSTRAINTS.read_text("utf-8"), re.MULTILINE))
    for floor in noxfile.floors():
        name, oldest = floor.split("==")
        assert [int(part) for part in pins[name].split(".")] >= [int(part) for part in oldest.split(".")]


def test_changelog_and_citation_know_the_version(noxfile, root):
    version = str(noxfile.metadata("iroot-solve")["version"])
    assert re.search(rf"^## .*{re.escape(version)}", (root / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert f"\nversion: {version}\n" in (root / "CITATION.cff").read_text("utf-8")
