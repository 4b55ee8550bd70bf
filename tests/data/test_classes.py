"""Classes are mapped by name, whatever order, numbers or extra classes a source has."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.data_sets import annotation, voc_object, write_coco, write_voc, write_yolo
from tests.support.rich_sets import assert_account_closes
from yoloflow.config.reader import load_config
from yoloflow.convert import Reading, convert
from yoloflow.data.classes import ClassChoice
from yoloflow.data.index import read_index
from yoloflow.data.problems import summarise_problems
from yoloflow.data.sets import read_sets, read_val_set
from yoloflow.data.settings import DataSettings
from yoloflow.structures import DatasetIndex, YoloflowError

NAMES = ["cat", "dog"]
BOX = ".5 .5 .2 .25\n"
DROP = {"class-out-of-range": "drop-box"}


def categories(*names: str, first: int = 1) -> list[dict[str, Any]]:
    return [{"id": first + number, "name": name} for number, name in enumerate(names)]


def write_categories(root: Path, names: list[str], used: list[int], first: int = 1) -> Path:
    """A json with an object on the first image for each of the used ids."""
    rows = [
        annotation(10, number, (5 * place, 5, 20, 30)) | {"id": place + 1}
        for place, number in enumerate(used)
    ]
    return write_coco(root, rows, categories=categories(*names, first=first))


def of_network(source: Path, own: list[str] | None = None, nc: int | None = None, **how: Any) -> DatasetIndex:
    """The set as a network of cats and dogs takes it."""
    index = read_index(str(source), ClassChoice(own, nc, NAMES), **how)
    assert_account_closes(index)
    assert index.names == NAMES
    return index


# A network's classes


def test_yolo_numbers_are_mapped_to_a_network_by_the_names_of_their_set(tmp_path: Path) -> None:
    source = write_yolo(tmp_path, {"a": f"0 {BOX}1 .2 .2 .1 .1\n"})
    assert of_network(source, ["dog", "cat"]).classes.tolist() == [1, 0]
    assert of_network(source, NAMES).classes.tolist() == [0, 1]
    assert of_network(source).classes.tolist() == [0, 1]


def test_a_class_that_the_network_lacks_is_an_error_for_its_boxes_only(tmp_path: Path) -> None:
    source = write_yolo(tmp_path, {"a": f"2 {BOX}", "b": f"1 {BOX}"})
    assert of_network(write_yolo(tmp_path / "few", {"b": f"1 {BOX}"}), ["bird", "cat"]).classes.tolist() == [
        0
    ]
    message = r"a.txt:1: class 2 \(bird\) is not in the network's classes \(known: cat, dog\).*to drop-box"
    with pytest.raises(YoloflowError, match=message):
        of_network(source, ["dog", "cat", "bird"])
    assert of_network(source, ["dog", "cat", "bird"], policy=DROP).classes.tolist() == [0]


def test_a_set_that_shares_no_class_with_the_network_is_refused_with_both_lists(tmp_path: Path) -> None:
    yolo = write_yolo(tmp_path, {"a": f"0 {BOX}"})
    with pytest.raises(YoloflowError, match=r"none of its classes \(ant, bee\) is in .*\(cat, dog\)"):
        of_network(yolo, ["ant", "bee"])
    json = write_categories(tmp_path / "coco", ["ant", "bee"], [1])
    with pytest.raises(YoloflowError, match=r"none of its classes \(ant, bee\) is in .*\(cat, dog\)"):
        of_network(json)
    voc = write_voc(tmp_path / "voc", {"a": voc_object("ant", 10, 20, 30, 40)})
    with pytest.raises(YoloflowError, match=r"none of its classes \(ant\) is in .*\(cat, dog\)"):
        of_network(voc)


def test_named_sources_of_a_network_are_mapped_by_name(tmp_path: Path) -> None:
    swapped = write_categories(tmp_path / "coco", ["dog", "cat"], [1, 2], first=0)
    assert of_network(write_categories(tmp_path / "one", ["dog"], [1])).classes.tolist() == [1]
    with pytest.raises(YoloflowError, match="category_id 2 is not among the file's categories"):
        of_network(swapped)
    voc = write_voc(tmp_path / "voc", {"a": voc_object("dog", 10, 20, 30, 40)})
    assert of_network(voc).classes.tolist() == [1]


def test_classes_known_by_number_only_are_matched_by_their_order_and_that_is_said(tmp_path: Path) -> None:
    source = write_yolo(tmp_path, {"a": f"1 {BOX}"})
    index = read_index(str(source), ClassChoice(["dog", "cat"], None, ["0", "1"]))
    assert (index.names, index.classes.tolist()) == (["0", "1"], [1])
    assert any(
        "(dog, cat) are taken for the network's classes (0, 1)" in line for line in summarise_problems(index)
    )
    assert of_network(source, None, 2).classes.tolist() == [1]
    with pytest.raises(YoloflowError, match=r"data.nc=3 but the network.s classes are 2 \(cat, dog\)"):
        of_network(source, None, 3)
    json = write_categories(tmp_path / "coco", ["dog", "cat"], [1])
    with pytest.raises(YoloflowError, match="data.names=.* says which class is which of the 2 numbers"):
        read_index(str(json), ClassChoice(None, None, ["0", "1"]))


# COCO categories


@pytest.mark.parametrize(
    ("names", "used", "first"),
    [
        (["cat", "dog", "bird"], [1, 3], 1),
        (["bird", "cat"], [2, 1], 1),
        (["cat", "dog", "bird"], [0, 2], 0),
        (["ant", "bird", "cat", "cow"], [3, 2], 1),
    ],
    ids=["equal", "subset in another order", "ids one less", "superset"],
)
def test_a_validation_json_may_have_other_categories(
    tmp_path: Path, names: list[str], used: list[int], first: int
) -> None:
    train = write_categories(tmp_path / "train", ["cat", "dog", "bird"], [1, 2, 3])
    val = write_categories(tmp_path / "val", names, used, first)
    sets = read_sets(DataSettings(train_set=str(train), val_set=str(val)), 64, with_val=True)
    assert sets["val_set"].names == ["cat", "dog", "bird"]
    assert sets["val_set"].classes.tolist() == [0, 2]
    ids = sets["val_set"].category_ids.tolist()
    assert len(set(ids)) == 3
    assert ids[0] == first + names.index("cat")


def test_an_object_of_a_class_that_is_not_trained_is_an_error_that_can_be_dropped(tmp_path: Path) -> None:
    train = write_categories(tmp_path / "train", NAMES, [1, 2])
    val = write_categories(tmp_path / "val", ["Cat", "dog"], [1, 2])
    settings = DataSettings(train_set=str(train), val_set=str(val))
    with pytest.raises(YoloflowError, match=r"annotation 1: class Cat is not in .* \(did you mean cat\?\)"):
        read_sets(settings, 64, with_val=True)
    sets = read_sets(settings.model_copy(update={"problems": DROP}), 64, with_val=True)
    assert sets["val_set"].classes.tolist() == [1]


def test_names_choose_classes_of_a_json_and_their_order(tmp_path: Path) -> None:
    source = str(write_categories(tmp_path, ["cat", "dog", "bird"], [1, 2, 3]))
    with pytest.raises(YoloflowError, match=r"class cat is not in data.names .*known: bird, dog"):
        read_index(source, ["dog", "bird"])
    index = read_index(source, ["bird", "dog"], policy=DROP)
    assert_account_closes(index)
    assert (index.classes.tolist(), index.category_ids.tolist()) == ([1, 0], [3, 2])
    index = read_index(source, ["dog", "cow", "bird", "cat"])
    assert (index.classes.tolist(), index.category_ids.tolist()) == ([3, 0, 2], [2, 4, 3, 1])


def test_a_root_category_of_the_classs_own_name_is_no_class(tmp_path: Path) -> None:
    train = write_categories(tmp_path / "train", ["ball", "ball"], [1], first=0)
    val = write_categories(tmp_path / "val", ["ball", "ball"], [1], first=0)
    sets = read_sets(DataSettings(train_set=str(train), val_set=str(val)), 64, with_val=True)
    for index in sets.values():
        assert (index.names, index.classes.tolist(), index.category_ids.tolist()) == (["ball"], [0], [1])
    with pytest.raises(YoloflowError, match="ball stands there twice"):
        read_index(
            str(write_categories(tmp_path / "one", ["ball"], [1])), ClassChoice(wanted=["ball", "ball"])
        )


@pytest.mark.parametrize("names", [None, ["ball"]])
def test_categories_of_one_name_are_one_class_with_a_word(tmp_path: Path, names: list[str] | None) -> None:
    both = write_categories(tmp_path, ["ball", "ball"], [4, 5], first=4)
    settings = DataSettings(train_set=str(both), val_set=str(both), names=names)
    for index in read_sets(settings, 64, with_val=True).values():
        assert (index.names, index.classes.tolist(), index.category_ids.tolist()) == (["ball"], [0, 0], [4])
        (detail,) = [one.detail for one in index.problems if one.kind == "equal-class-names"]
        assert detail == "the categories 4, 5 are all called ball, which is one class"
    convert([str(both)], "yolo", tmp_path / "out", reading=Reading(names))
    assert read_sets(load_config("yolov8n", [f"data={tmp_path}/out/data.yaml"]).data, 64, with_val=False)


def test_numbers_of_labels_are_not_taken_for_the_names_of_another_source(tmp_path: Path) -> None:
    labels = str(write_yolo(tmp_path / "yolo", {"a": f"0 {BOX}"}))
    json = str(write_categories(tmp_path / "coco", ["dog", "cat"], [1]))
    voc = str(write_voc(tmp_path / "voc", {"b": voc_object("dog", 10, 20, 30, 40)}))
    for other in (json, voc):
        with pytest.raises(YoloflowError, match=r"list.txt: its labels have numbers .*data.names=\[NAME"):
            read_index([other, labels])
        assert read_index([other, labels], ["cat", "dog"]).classes.tolist() == [1, 0]
        index = read_index([other, labels], None, "counted")
        assert "class-order-assumed" in {problem.kind for problem in index.problems}
    background = str(write_yolo(tmp_path / "none", {"c": ""}))
    assert len(read_index([json, background])) == 3


def test_category_ids_that_are_all_off_by_one_are_recognised(tmp_path: Path) -> None:
    source = write_categories(tmp_path, NAMES, [1, 2], first=0)
    with pytest.raises(YoloflowError, match="category_id 2 is not .*all would be if they were one less"):
        read_index(str(source))


@pytest.mark.parametrize(
    ("name", "fault"), [(" ", "is empty"), ("a\nb", "has a line break"), ("a\u2028b", "has a")]
)
def test_a_class_name_that_is_empty_or_has_two_lines_is_refused_with_its_place(
    tmp_path: Path, name: str, fault: str
) -> None:
    source = str(write_categories(tmp_path / "coco", ["cat", name], [1]))
    with pytest.raises(YoloflowError, match=rf"set.json: categories\[1\] \(id 2\): its name .*{fault}"):
        read_index(source)
    labels = str(write_yolo(tmp_path / "yolo", {"a": f"0 {BOX}"}))
    with pytest.raises(YoloflowError, match=f"data.names: the name of class 1 .*{fault}"):
        read_index(labels, ["cat", name])
    rows = voc_object("dog", 1, 2, 30, 40) + voc_object(name, 10, 20, 30, 40)
    index = read_index(str(write_voc(tmp_path / "voc", {"a": rows})))
    assert (index.names, index.num_boxes_listed) == (["dog"], 2)


def test_a_category_of_a_joined_json_that_the_first_lacks_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    sources = [
        str(write_categories(tmp_path / "one", ["cat"], [1])),
        str(write_categories(tmp_path / "two", ["dog", "cat"], [1])),
    ]
    with pytest.raises(YoloflowError, match=r"class dog is not in the categories of .*data.names=\[...\]"):
        read_index(sources)
    assert read_index(sources, NAMES).classes.tolist() == [0, 1]


# A set without an object to train on


def test_a_training_set_without_an_object_is_an_error_that_names_the_cause(tmp_path: Path) -> None:
    crowd = write_coco(tmp_path / "coco", [annotation(), annotation(20)], num_images=2)
    crowd.write_text(crowd.read_text().replace('"iscrowd": 0', '"iscrowd": 1'))
    hard = write_voc(tmp_path / "voc", {"a": voc_object("cat", 1, 2, 30, 40, "<difficult>1</difficult>")})
    empty = write_yolo(tmp_path / "yolo", {"a": "", "b": ""})
    for source, cause in (
        (crowd, "all 2 boxes .*iscrowd=1"),
        (hard, "difficult=1"),
        (empty, "no boxes at all"),
    ):
        settings = DataSettings(train_set=str(source), names=["cat", "dog"])
        with pytest.raises(YoloflowError, match=f"{cause}.*nothing-to-learn"):
            read_sets(settings, 64, with_val=False)
        kept = settings.model_copy(update={"problems": {"nothing-to-learn": "keep"}})
        assert not (~read_sets(kept, 64, with_val=False)["train_set"].is_crowd).any()
        index = read_val_set(settings.model_copy(update={"val_set": str(source)}), 64, NAMES)
        assert "nothing-to-find" in {problem.kind for problem in index.problems}


def test_classes_of_few_objects_are_a_remark_with_the_regions_beside_them(tmp_path: Path) -> None:
    rows = [annotation(10, 3, (5, 5, 20, 30)), annotation(10, 7, (9, 9, 20, 30), iscrowd=1)]
    rows += [annotation(10, 3, (30, 5, 20, 30), iscrowd=1)]
    settings = DataSettings(train_set=str(write_coco(tmp_path, rows)))
    index = read_sets(settings, 64, with_val=False)["train_set"]
    assert {problem.kind: problem.detail for problem in index.problems} == {
        "unused-class": "no object of 1 of 2 classes: dog (and 1 crowd or difficult)",
        "few-objects": "fewer than 10 objects of 1 of 2 classes: cat 1 (and 1 crowd or difficult)",
    }


def test_classes_without_objects_are_no_imbalance(tmp_path: Path) -> None:
    train = write_categories(tmp_path, ["fish", "tuna", "cod"], [2, 3])
    index = read_sets(DataSettings(train_set=str(train)), 64, with_val=False)["train_set"]
    assert {problem.kind for problem in index.problems} == {"unused-class", "few-objects"}


# Blanks, and a single class


@pytest.mark.parametrize("names", [["cat ", "dog"], [" cat", "dog\t"]])
def test_blanks_around_a_name_make_no_other_class(tmp_path: Path, names: list[str]) -> None:
    source = write_categories(tmp_path, names, [1, 2])
    index = of_network(source)
    assert index.classes.tolist() == [0, 1]
    assert index.category_ids.tolist() == [1, 2]
    assert index.unlisted_classes == []
    assert read_index(str(source), NAMES).classes.tolist() == [0, 1]


def test_names_that_differ_in_blanks_alone_stay_two_classes(tmp_path: Path) -> None:
    source = write_categories(tmp_path, ["cat", "cat "], [1, 2])
    assert read_index(str(source), ["cat ", "cat"]).classes.tolist() == [1, 0]


@pytest.mark.parametrize("names", [None, ["cat", "dog"]])
def test_with_one_class_whatever_the_tested_set_has_is_that_class(
    tmp_path: Path, names: list[str] | None
) -> None:
    train = write_categories(tmp_path / "train", NAMES, [1, 2])
    val = write_categories(tmp_path / "val", [*NAMES, "bird"], [1, 3])
    labels = write_yolo(tmp_path / "yolo", {"a": f"0 {BOX}7 .2 .2 .1 .1\n"})
    for source in (val, labels):
        settings = DataSettings(
            train_set=str(train), val_set=str(source), names=names, single_cls=True, index_cache=False
        )
        for index in (read_sets(settings, 64, True)["val_set"], read_val_set(settings, 64, ["object"])):
            assert (index.names, index.classes.tolist()) == (["object"], [0, 0])


def test_a_name_that_no_file_can_hold_is_refused(tmp_path: Path) -> None:
    source = write_categories(tmp_path, ["cat", "x\udce9"], [1])
    with pytest.raises(YoloflowError, match=r"set\.json: categories\[1\] .*'x\\udce9' is no text"):
        read_index(str(source))
    with pytest.raises(YoloflowError, match=r"data\.names: .*'x\\udce9' is no text"):
        read_index(str(write_yolo(tmp_path / "yolo", {"a": f"0 {BOX}"})), names=["x\udce9"])


def test_a_json_whose_only_image_is_no_entry_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.json"
    path.write_text('{"images": [null], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}')
    with pytest.raises(YoloflowError, match=r"set\.json: none of its 1 images can be used: .*images\[0\]"):
        read_index(str(path))
