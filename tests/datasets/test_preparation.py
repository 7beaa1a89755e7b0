"""tools/dataset_converters/prepare_dataset.py on real files, packed as downloads."""

import json
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat
from tool_calls import call_tool, fail

TOOL = "dataset_converters/prepare_dataset.py"
NUM_VAL = 50000


@pytest.fixture
def prepare(monkeypatch, tmp_path, capfd):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        return call_tool(monkeypatch, capfd, TOOL, *arguments)

    return run


def pack(archive: Path, root: Path, files: list[Path]) -> Path:
    with zipfile.ZipFile(archive, "w") as content:
        for file in files:
            content.write(file, file.relative_to(root))
        content.writestr("__MACOSX/._x", b"rubbish")
    return archive


@pytest.fixture
def coco(data_dir, tmp_path):
    """Pack four images of each split, with the annotations of these."""
    root = tmp_path / "unpacked"
    for split in ("train2017", "val2017"):
        source = data_dir / "coco_mini"
        file = f"annotations/instances_{split}.json"
        content = json.loads((source / file).read_text())
        content["images"] = content["images"][:4]
        ids = {image["id"] for image in content["images"]}
        content["annotations"] = [
            entry for entry in content["annotations"] if entry["image_id"] in ids
        ]
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(json.dumps(content))
        for image in content["images"]:
            target = root / split / image["file_name"]
            target.parent.mkdir(exist_ok=True)
            shutil.copy(source / split / image["file_name"], target)
    return [
        pack(tmp_path / f"{name}.zip", root, sorted((root / folder).iterdir()))
        for name, folder in (
            ("train2017", "train2017"),
            ("val2017", "val2017"),
            ("annotations_trainval2017", "annotations"),
        )
    ]


def files_in(folder: Path) -> dict[str, tuple[bytes, float]]:
    return {
        str(file.relative_to(folder)): (file.read_bytes(), file.stat().st_mtime)
        for file in folder.rglob("*")
        if file.is_file()
    }


def test_coco_goes_on_where_it_was_interrupted(prepare, coco, tmp_path) -> None:
    code, out, err = prepare("coco", *coco, "--out", "data/coco")
    assert code == 0, err
    assert "4 images of train2017, 4 images of val2017; 10 files written, 0 were" in out
    root = tmp_path / "data/coco"
    whole = files_in(root)
    assert {name: content for name, (content, _) in whole.items()} == {
        name: content for name, (content, _) in files_in(tmp_path / "unpacked").items()
    }
    images = sorted((root / "val2017").iterdir())
    images[0].unlink()
    images[1].rename(f"{images[1]}.part")  # as a kill in the middle of it leaves it
    (root / f"val2017/{images[1].name}.part").write_bytes(b"half")
    code, out, err = prepare("coco", *coco, "--out", "data/coco")
    assert code == 0, err
    assert "2 files written, 8 were there" in out
    again = files_in(root)
    assert again.keys() == whole.keys()
    assert {n: c for n, (c, _) in again.items()} == {
        n: c for n, (c, _) in whole.items()
    }
    same = [name for name in whole if again[name] == whole[name]]
    assert len(same) == 8  # not even their dates have changed


def test_coco_is_never_overwritten(prepare, coco, tmp_path) -> None:
    prepare("coco", *coco)
    image = next((tmp_path / "data/coco/val2017").iterdir())
    content = bytearray(image.read_bytes())
    content[-3] ^= 1  # of the same size
    image.write_bytes(content)
    fail(prepare("coco", *coco), f"{image.name} exists and is another file")
    assert image.read_bytes() == bytes(content)


def test_faulty_coco(prepare, coco, tmp_path) -> None:
    train, val, annotations = coco
    fail(prepare("coco", "no.zip"), "no.zip does not exist")
    fail(prepare("coco", val, "--out", "a"), "annotations_trainval2017.zip")
    fail(prepare("coco", tmp_path / "x.zip"), "x.zip does not exist")
    data = bytearray(val.read_bytes())
    data[len(data) // 2] ^= 255
    (tmp_path / "bad.zip").write_bytes(data)
    fail(prepare("coco", tmp_path / "bad.zip", "--out", "b"), "bad.zip is damaged")
    (tmp_path / "cut.zip").write_bytes(val.read_bytes()[:-100])
    fail(prepare("coco", tmp_path / "cut.zip", "--out", "c"), "cut.zip is damaged")
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as evil:
        evil.writestr("val2017/../../evil.txt", "x")
    fail(prepare("coco", tmp_path / "evil.zip", "--out", "d"), "leads out of it")
    assert not (tmp_path / "evil.txt").exists()
    with zipfile.ZipFile(val) as whole, zipfile.ZipFile("less.zip", "w") as less:
        names = [name for name in whole.namelist() if name.startswith("val")]
        for name in names[1:]:
            less.writestr(name, whole.read(name))
    missing = Path(names[0]).name
    result = prepare("coco", "less.zip", annotations, "--out", "e")
    fail(result, f"1 of 4 files are missing, first {missing}")
    code, out, _ = prepare("coco", "less.zip", annotations, "--out", "e", "--partial")
    assert code == 0 and "3 images of val2017" in out
    result = prepare("coco", train, val, annotations, "--out", "f")
    assert result[0] == 0
    file = tmp_path / "f/annotations/instances_val2017.json"
    content = json.loads(file.read_text())
    content["images"][1]["width"] += 1
    file.write_text(json.dumps(content))
    fail(prepare("coco", val, "--out", "f"), "pixels, its annotations say")


@pytest.fixture
def ade20k(data_dir, tmp_path):
    root = data_dir / "ade_mini/ade"
    files = [file for file in sorted(root.rglob("*")) if file.is_file()]
    return pack(tmp_path / "ADEChallengeData2016.zip", root, files)


def test_ade20k(prepare, ade20k, data_dir, tmp_path) -> None:
    fail(prepare("ade20k", ade20k), "training of")
    code, out, err = prepare("ade20k", ade20k, "--partial")
    assert code == 0, err
    assert "5 images of training, 3 images of validation; 0 files written, 17" in out
    source = data_dir / "ade_mini/ade/ADEChallengeData2016"
    root = tmp_path / "data/ade/ADEChallengeData2016"
    assert {name: content for name, (content, _) in files_in(root).items()} == {
        name: content for name, (content, _) in files_in(source).items()
    }
    label = next((root / "annotations/training").iterdir())
    label.unlink()
    image = f"first {label.stem}"
    with zipfile.ZipFile("less.zip", "w") as less:
        less.write(root / "objectInfo150.txt", f"{root.name}/objectInfo150.txt")
    result = prepare("ade20k", "less.zip", "--partial")
    fail(result, "files without annotations")
    assert image in result[2]


@pytest.fixture
def imagenet(data_dir, tmp_path):
    """Lay real validation images flat, and write a devkit that knows their classes."""
    source = data_dir / "cls_mini"
    flat = tmp_path / "ILSVRC2012_img_val"
    flat.mkdir()
    folders = sorted(path.name for path in (source / "train").iterdir())
    wnids = folders + [f"n{number:08d}" for number in range(1, 991)]
    rng = np.random.default_rng(0)
    rng.shuffle(wnids)  # the devkit's numbers are not those of the sorted folders
    truth = np.ones(NUM_VAL, dtype=int)
    expected = {}
    for file in sorted(source.glob("train/*/ILSVRC2012_val_*.JPEG"))[::3]:
        shutil.copy(file, flat)
        truth[int(file.stem[-8:]) - 1] = wnids.index(file.parent.name) + 1
        expected[file.name] = file.parent.name
    (flat / "readme.txt").write_text("of no use")
    row = np.dtype([("ILSVRC2012_ID", object), ("WNID", object), ("words", object)])
    rows = [(number, wnid, "word") for number, wnid in enumerate(wnids, 1)]
    rows.append((1001, "n00001740", "an inner node"))
    devkit = tmp_path / "ILSVRC2012_devkit_t12/data"
    devkit.mkdir(parents=True)
    savemat(devkit / "meta.mat", {"synsets": np.array(rows, dtype=row)})
    text = "\n".join(map(str, truth)) + "\n"
    (devkit / "ILSVRC2012_validation_ground_truth.txt").write_text(text)
    return flat, devkit.parent, expected


@pytest.mark.parametrize("packed", [False, True])
def test_imagenet(prepare, imagenet, packed, tmp_path) -> None:
    flat, devkit, expected = imagenet
    if packed:
        archives = [tmp_path / f"{path.name}.tar" for path in (flat, devkit)]
        for archive, path in zip(archives, (flat, devkit), strict=True):
            with tarfile.open(archive, "w") as content:
                content.add(path, path.name)
        flat, devkit = archives
    fail(prepare("imagenet", flat, devkit, "--out", "a"), "of 50000 files are missing")
    command = ("imagenet", flat, devkit, "--partial")
    code, out, err = prepare(*command)
    assert code == 0, err
    assert f"{len(expected)} images of val; {len(expected)} files written" in out
    root = tmp_path / "data/imagenet/val"
    found = {file.name: file.parent.name for file in root.rglob("*.JPEG")}
    assert found == expected
    code, out, err = prepare(*command)
    assert code == 0, err
    assert f"0 files written, {len(expected)} were there" in out
    image = next(root.rglob("*.JPEG"))
    image.unlink()
    image.write_bytes(b"mine")
    fail(prepare(*command), f"{image.name} exists and is another file")
    assert image.read_bytes() == b"mine"


def test_faulty_imagenet(prepare, imagenet, tmp_path) -> None:
    flat, devkit, _ = imagenet
    fail(prepare("imagenet", devkit, devkit), "holds no ILSVRC2012_val_*.JPEG")
    fail(prepare("imagenet", flat, flat), "holds no meta.mat")
    fail(prepare("imagenet", "no.tar", devkit), "no.tar does not exist")
    (tmp_path / "cut.tar.gz").write_bytes(b"\x1f\x8b\x08" + bytes(40))
    fail(prepare("imagenet", flat, tmp_path / "cut.tar.gz"), "cut.tar.gz is damaged")
    truth = devkit / "data/ILSVRC2012_validation_ground_truth.txt"
    truth.write_text(truth.read_text().replace("1\n", "1001\n", 1))
    fail(prepare("imagenet", flat, devkit, "--partial"), "none with number 1001")
    truth.write_text(truth.read_text().replace("1001\n", "1\n", 1))
    image = next(flat.glob("*.JPEG"))
    image.write_bytes(image.read_bytes()[:-2000])
    fail(prepare("imagenet", flat, devkit, "--partial"), image.name)
