"""The three tools as processes: what they print and how they end."""

import os
import subprocess
import sys
from pathlib import Path

from small_zoo import RETINANET

REPOSITORY = Path(__file__).parents[2]


def run(tool, zoo, *options):
    """Run a tool on a small zoo; return exit code, stdout and lines of stderr."""
    command = [sys.executable, REPOSITORY / "dev" / f"{tool}.py"]
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*command, "--configs", zoo.config_dir, *options],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"},
        check=False,
    )
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if "error: " in line]
    return done.returncode, done.stdout, errors


def test_a_new_config_from_the_metafile_to_the_pages(zoo):
    content = zoo.read()
    content["Models"] = [m for m in content["Models"] if m["Name"] != RETINANET]
    zoo.write(content)
    code, out, errors = run("check_metafiles", zoo, "--fast")
    assert (code, len(errors)) == (1, 1)
    assert f"{RETINANET}.py has no entry" in errors[0]

    code, out, errors = run("update_metafiles", zoo, "cyclemlp")
    assert (code, errors) == (0, [])
    assert f"{zoo.metafile}: 1 added, 0 changed, 0 dropped" in out

    code, out, errors = run("check_metafiles", zoo, "--fast")
    assert (code, errors) == (0, [])
    assert "checked 5 configs of 1 families" in out

    code, out, errors = run("make_model_zoo", zoo, "--check")
    assert (code, len(errors)) == (1, 2)
    assert "stale" in errors[0] and "stale" in errors[1]

    code, out, errors = run("make_model_zoo", zoo)
    assert (code, errors) == (0, [])
    assert f"wrote {zoo.readme}" in out
    assert RETINANET in zoo.readme.read_text()

    code, out, errors = run("make_model_zoo", zoo, "--check")
    assert (code, errors) == (0, [])


def test_mistakes_end_in_one_line_each(zoo):
    for tool in ("update_metafiles", "check_metafiles"):
        code, _, errors = run(tool, zoo, "as_mlp")
        assert (code, len(errors)) == (1, 1)
        assert "no family 'as_mlp'" in errors[0] and "there are cyclemlp" in errors[0]
    (zoo.family / f"{RETINANET}.py").unlink()
    code, _, errors = run("update_metafiles", zoo)
    assert (code, len(errors)) == (1, 1)
    assert f"{RETINANET} has no config" in errors[0]
    zoo.metafile.write_text("Models: []\nCollections: [1]\nOthers: 3\n")
    code, _, errors = run("make_model_zoo", zoo)
    assert code == 1
    assert len(errors) == 2  # the unknown key and the collection that is none
