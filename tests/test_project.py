"""What the project says twice in its files agrees: versions, tools, sessions, actions."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import tinynn

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT, GROUPS = PYPROJECT["project"], PYPROJECT["dependency-groups"]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
FORMS = sorted(
    path for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml"
)
RELEASE = re.compile(r"^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d{2}-\d{2})$", re.MULTILINE)


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def name_of(path: Path) -> str:
    return path.name


def steps(workflow: Path) -> Iterator[dict[str, Any]]:
    for job in read(workflow)["jobs"].values():
        yield from job["steps"]


# Versions


def test_the_citation_is_of_this_version_and_says_when_it_was_released() -> None:
    citation = read(ROOT / "CITATION.cff")
    assert citation["version"] == tinynn.__version__
    assert citation["license"] == PROJECT["license"]
    assert citation["keywords"] == PROJECT["keywords"]
    released = dict(RELEASE.findall((ROOT / "CHANGELOG.md").read_text()))
    date = citation.get("date-released")
    assert (str(date) if date else None) == released.get(tinynn.__version__)


def test_the_changelog_begins_with_what_is_unreleased_and_goes_back_from_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    releases = [version for version, _ in RELEASE.findall(text)]
    assert len(releases) == len(headings) - 1, "a heading is not [X.Y.Z] - YYYY-MM-DD"
    numbers = [tuple(map(int, version.split("."))) for version in (tinynn.__version__, *releases)]
    assert numbers == sorted(numbers, reverse=True)
    assert len(set(releases)) == len(releases)


def test_the_license_is_an_expression_without_a_classifier() -> None:
    assert PROJECT["license"] == "BSD-3-Clause"
    assert not [text for text in PROJECT["classifiers"] if text.startswith("License ::")]


# Tools


def hooks() -> dict[str, dict[str, Any]]:
    (local,) = read(ROOT / ".pre-commit-config.yaml")["repos"]
    assert local["repo"] == "local"
    return {hook["id"]: hook for hook in local["hooks"]}


def test_hooks_before_commits_take_the_tools_that_nox_takes() -> None:
    for hook in hooks().values():
        tool = hook["entry"].split()[0]
        (pin,) = (each for each in GROUPS["lint"] + GROUPS["types"] if each.startswith(f"{tool}=="))
        assert hook["additional_dependencies"][0] == pin, hook["id"]


def test_mypy_sees_before_commits_what_it_sees_in_nox() -> None:
    wanted = GROUPS["types"] + PROJECT["dependencies"] + PROJECT["optional-dependencies"]["cli"]
    assert sorted(hooks()["mypy"]["additional_dependencies"]) == sorted(wanted)


def test_dependabot_raises_the_tools_that_are_pinned() -> None:
    updates = read(ROOT / ".github/dependabot.yml")["updates"]
    (pip,) = (each for each in updates if each["package-ecosystem"] == "pip")
    tools = {re.split("[=<>]", each)[0] for each in GROUPS["lint"] + GROUPS["types"]}
    assert {each["dependency-name"] for each in pip["allow"]} == tools
    assert set(pip["groups"]["tools"]["patterns"]) == tools


# Workflows


def test_classifiers_name_the_pythons_and_systems_of_the_matrix() -> None:
    text = (ROOT / ".github/workflows/ci.yml").read_text()
    matrix = re.search(r"\[([^\]]*)\] as \$pythons", text)
    assert matrix is not None
    pythons = re.findall(r"3\.\d+", matrix[1])
    classifiers = PROJECT["classifiers"]
    named = [text.rpartition(" ")[2] for text in classifiers if re.search(r":: 3\.\d+$", text)]
    assert named == pythons
    assert PROJECT["requires-python"] == f">={pythons[0]}"
    systems = {"ubuntu": "Linux", "macos": "MacOS", "windows": "Windows"}
    tested = {systems[name] for name in re.findall(r"(\w+)-latest", text)}
    assert {
        text.rpartition(" ")[2] for text in classifiers if text.startswith("Operating System")
    } == tested


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=name_of)
def test_sessions_that_a_workflow_names_exist(workflow: Path) -> None:
    tree = ast.parse((ROOT / "noxfile.py").read_text())
    sessions = {
        node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.decorator_list
    }
    jobs = read(workflow)["jobs"].values()
    matrices = [job.get("strategy", {}).get("matrix", {}) for job in jobs]
    named = {name for matrix in matrices for name in matrix.get("session", ())}
    for step in steps(workflow):
        named |= set(re.findall(r"nox (?:-s|--session) \"?(\w+)", step.get("run", "")))
        named |= set(re.findall(r"session: \"(\w+)\"", step.get("run", "")))
    assert named <= sessions
    assert named


def test_actions_are_pinned_to_one_commit_each() -> None:
    pins: dict[str, set[str]] = {}
    for workflow in WORKFLOWS:
        uses = re.findall(r"uses: (\S+)@(\S*)(.*)", workflow.read_text())
        assert len(uses) == sum("uses" in step for step in steps(workflow))
        for action, commit, comment in uses:
            assert re.fullmatch("[0-9a-f]{40}", commit), f"{workflow.name}: {action}"
            assert re.fullmatch(r"  # v\d+\.\d+\.\d+", comment), f"{workflow.name}: {action}"
            pins.setdefault(action, set()).add(commit + comment)
    assert {action: each for action, each in pins.items() if len(each) > 1} == {}


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=name_of)
def test_jobs_end_and_may_do_no_more_than_they_say(workflow: Path) -> None:
    content = read(workflow)
    assert content["permissions"] == {}
    for name, job in content["jobs"].items():
        assert job["timeout-minutes"] <= 240, name
        assert job["permissions"], name


def test_only_the_job_that_publishes_may_identify_itself_and_it_runs_none_of_our_code() -> None:
    found = [
        (workflow.name, name, job)
        for workflow in WORKFLOWS
        for name, job in read(workflow)["jobs"].items()
        if "id-token" in job["permissions"] and job.get("environment", {}).get("name") == "pypi"
    ]
    ((workflow, name, job),) = found
    assert (workflow, name) == ("release.yml", "publish")
    assert job["permissions"] == {"id-token": "write"}
    assert not [step for step in job["steps"] if "run" in step]


# Templates


@pytest.mark.parametrize("form", FORMS, ids=name_of)
def test_forms_have_what_github_wants_of_them(form: Path) -> None:
    content = read(form)
    assert set(content) == {"name", "description", "labels", "body"}
    kinds = {"markdown", "textarea", "input", "dropdown", "checkboxes"}
    assert {field["type"] for field in content["body"]} <= kinds
    asked = [field for field in content["body"] if field["type"] != "markdown"]
    assert asked
    names = [field["id"] for field in asked]
    assert len(set(names)) == len(names)
    assert all(field["attributes"]["label"] for field in asked)
    assert all(
        set(field) <= {"type", "id", "attributes", "validations"} for field in content["body"]
    )


def test_templates_and_documents_of_the_project_link_to_files_that_exist() -> None:
    for name in ("CONTRIBUTING.md", "RELEASING.md", "SECURITY.md", "README.md"):
        for path in re.findall(r"\]\((?!https?:|#)([^)#]+)", (ROOT / name).read_text()):
            assert (ROOT / path).exists(), f"{name}: {path}"
