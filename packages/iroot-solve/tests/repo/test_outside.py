"""What the tests of a package see when it stands alone: its tests and its README, no source."""


def test_layout_holds_tests_and_no_source(noxfile, tmp_path):
    noxfile.lay_out(list(noxfile.PACKAGES), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"pyproject.toml", "conftest.py", "packages"}
    for package in noxfile.PACKAGES:
        names = {path.name for path in (tmp_path / "packages" / package).iterdir()}
        assert {"tests", "README.md"} <= names <= {"tests", "README.md", "benchmarks"}
    assert not (tmp_path / "packages" / "iroot-solve" / "tests" / "repo").exists()


def test_every_package_has_tests_and_benchmarks(noxfile, root):
    for package in noxfile.PACKAGES:
        assert list((root / "packages" / package / "tests").rglob("test_*.py")), package
    assert len(noxfile.benchmark_folders(list(noxfile.PACKAGES))) == len(noxfile.PACKAGES)
