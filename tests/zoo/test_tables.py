"""Tables show what the metafiles say, on every page, and stale ones are noticed."""

import pytest
from small_zoo import CLASSIFIER, MASK_RCNN, README, RETINANET, UPERNET

from dev.zoo.tables import (
    TableError,
    find_stale_pages,
    make_pages,
    read_rows,
    render_table,
    select_rows,
    write_pages,
)
from mlp_backbones.config_names import config_dir


def test_the_pages_of_this_repository_are_up_to_date():
    """If not: python dev/make_model_zoo.py."""
    pages = make_pages(config_dir())
    assert len(pages) == len(list(config_dir().glob("*/metafile.yml"))) + 1
    assert find_stale_pages(pages) == []


def write_all(zoo):
    return write_pages(make_pages(zoo.config_dir))


def test_pages_are_written_once_and_prose_is_kept(zoo):
    page = zoo.config_dir.parent / "docs" / "model_zoo.md"
    assert write_all(zoo) == [zoo.readme, page]
    assert write_all(zoo) == []
    text = zoo.readme.read_text()
    for line in README.splitlines():
        assert line in text.splitlines()
    assert "[CycleMLP](../configs/cyclemlp)" in page.read_text()


def test_a_table_says_what_the_metafile_says(zoo):
    write_all(zoo)
    lines = zoo.readme.read_text().splitlines()
    weights = "https://github.com/ShoufaChen/CycleMLP/releases/download/v0.1/"
    assert (
        "| Arch | Params | FLOPs | Top-1 (paper) | Images a step | Config "
        "| Weights (authors') |"
    ) in lines
    assert (
        f"| b1 | 15.2M | 2.1G | 78.9 | 1024 | [config]({CLASSIFIER}.py) "
        f"| [CycleMLP_B1.pth]({weights}CycleMLP_B1.pth) |"
    ) in lines
    assert (
        "| RetinaNet | COCO | b1 | 1x | 24.9M | 24.9M "
        "| box AP 38.6, box AP50 59.1, box AP75 40.8 "
        f"| [config]({RETINANET}.py) |"
    ) in lines
    assert (
        f"| UperNet | ADE20K | tiny | 160k | 64.0M | - | - | [config]({UPERNET}.py) |"
    ) in lines


def test_borrowed_and_measured_results_have_columns_of_their_own(zoo):
    content = zoo.read()
    (model,) = [m for m in content["Models"] if m["Name"] == RETINANET]
    for hardware, value in (("one GPU", 38.5), ("eight GPUs", 38.7)):
        model["Results"].append(
            {
                "Task": "Object Detection",
                "Dataset": "COCO",
                "Source": "measured here",
                "Hardware": hardware,
                "Metrics": {"box AP": value, "Minutes": 9.5},
            }
        )
    zoo.write(content)
    rows = select_rows(read_rows(zoo.family), "retinanet coco")
    head, _, row = render_table(rows).splitlines()
    cells = dict(zip(head.split(" | "), row.split(" | "), strict=True))
    assert cells["box AP (paper)"] == "38.6"
    assert cells["box AP (measured here)"] == "38.5; 38.7"
    assert cells["Minutes"] == "9.5; 9.5"
    assert cells["Hardware"] == "one GPU; eight GPUs"


def test_rows_stand_in_the_order_of_the_class(zoo):
    content = zoo.read()
    content["Models"].reverse()
    zoo.write(content)
    archs = [row.arch for row in read_rows(zoo.family)]
    assert archs == ["b1", "b2", "b1", "tiny", "mini"]


@pytest.mark.parametrize(
    ("key", "value"), [("Parameters", 16_000_000), ("FLOPs", 3_000_000_000)]
)
def test_a_changed_number_is_noticed(zoo, key, value):
    write_all(zoo)
    content = zoo.read()
    content["Models"][0]["Metadata"][key] = value
    zoo.write(content)
    stale = find_stale_pages(make_pages(zoo.config_dir))
    assert [line.split(":")[0] for line in stale] == [
        str(zoo.readme),
        str(zoo.config_dir.parent / "docs" / "model_zoo.md"),
    ]
    lines = zoo.readme.read_text().splitlines()
    (number,) = [n for n, line in enumerate(lines, 1) if CLASSIFIER in line]
    assert stale[0].startswith(f"{zoo.readme}:{number}: stale, '| b1 | 15.2M")
    assert "make_model_zoo.py" in stale[0]


def test_a_changed_result_and_a_table_edited_by_hand_are_noticed(zoo):
    write_all(zoo)
    zoo.readme.write_text(zoo.readme.read_text().replace("78.9", "79.8"))
    (line,) = find_stale_pages(make_pages(zoo.config_dir))
    assert "79.8" in line and "78.9" in line


def test_a_missing_page_is_noticed(zoo):
    write_all(zoo)
    (zoo.config_dir.parent / "docs" / "model_zoo.md").unlink()
    (line,) = find_stale_pages(make_pages(zoo.config_dir))
    assert "model_zoo.md:1: stale" in line


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (
            "<!-- table: digit-scenes -->\n<!-- /table -->",
            "",
            f"{MASK_RCNN} is in no table",
        ),
        ("coco ade20k", "coco", f"{UPERNET} is in no table"),
        ("coco ade20k", "coco ade20k digit-scenes", f"{MASK_RCNN} is in 2 tables"),
        ("coco ade20k", "coco ade", "unknown word 'ade', known are retinanet"),
        ("classification in1k", "classification coco", "no config fits"),
        ("coco ade20k -->\n<!-- /table -->", "coco ade20k -->", "has no partner"),
        ("coco ade20k -->", "coco ade20k -->\nA word.", "'A word.' would be lost"),
        (
            "Something",
            f"| x |\n| --- |\n| [config]({CLASSIFIER}.py) |\n",
            f"{CLASSIFIER}.py stands in a table without markers",
        ),
        ("# CycleMLP", "CycleMLP", "the first line should be a title"),
    ],
)
def test_a_page_out_of_order_is_refused(zoo, old, new, problem):
    assert old in README
    zoo.readme.write_text(README.replace(old, new))
    with pytest.raises(TableError) as info:
        make_pages(zoo.config_dir)
    assert any(
        line.startswith(str(zoo.readme)) and problem in line
        for line in info.value.problems
    ), info.value.problems


def test_a_family_without_entries_is_refused(zoo):
    """As a new family begins, before its metafile is brought up to date."""
    zoo.write({**zoo.read(), "Models": []})
    zoo.readme.write_text("# CycleMLP\n")
    with pytest.raises(TableError, match=r"metafile\.yml: Models is empty: run "):
        make_pages(zoo.config_dir)


def test_a_folder_without_metafiles_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no metafile\.yml"):
        make_pages(tmp_path)
