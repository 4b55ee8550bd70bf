import pytest
import torch
from torch import Tensor

from tests.support.recipe_files import sweep
from yoloflow import load_config
from yoloflow.models import create_model
from yoloflow.models.class_rows import fit_classes
from yoloflow.models.network import Network

HEADS = (
    "yolov3",
    "yolov4",
    "yolov5n",
    "yolov7-tiny",
    "yolov8n",
    "yolov9t",
    "yolov10n",
    "yolov11n",
    "yolox-nano",
)
FILE, OWN = ["cat", "dog", "bird"], ["Bird", "fish", "horse", "cat"]


def network_of(recipe: str, classes: int, seed: int) -> Network:
    torch.manual_seed(seed)
    config = load_config(recipe, ["network.width_multiple=0.125", "network.depth_multiple=0.33"])
    network = create_model(config.network.model_name, config.network_table(), classes).eval()
    with torch.no_grad():
        for name, value in network.named_parameters():
            if name.endswith(("bias", "implicit")):
                value.add_(torch.rand(value.shape))  # new biases are alike, which would hide wrong rows
    return network


def decoded(network: Network) -> Tensor:
    """(N, 4 + scores) before any choice of the best."""
    images = torch.randint(0, 256, (1, 3, 64, 64), generator=torch.Generator().manual_seed(1)).byte()
    with torch.no_grad():
        found: Tensor = network.eval()(images)[0]
    return found[0]


@pytest.mark.parametrize("recipe", [name for name in HEADS if name != "yolov10n"])
def test_boxes_objectness_and_scores_of_the_same_classes_stay(recipe: str) -> None:
    file, own = network_of(recipe, len(FILE), seed=1), network_of(recipe, len(OWN), seed=2)
    fit = fit_classes(own, file.state_dict(), FILE, OWN)
    before = {name: value.clone() for name, value in own.state_dict().items()}
    own.load_state_dict(fit.weights)
    assert fit.kept_classes == ["Bird", "cat"]
    assert fit.partly
    assert not fit.anew
    first, second = decoded(file), decoded(own)
    scores = 5 if own.output_kind.has_objectness else 4
    torch.testing.assert_close(second[:, :scores], first[:, :scores])
    torch.testing.assert_close(second[:, scores], first[:, scores + 2])
    torch.testing.assert_close(second[:, scores + 3], first[:, scores])
    # The rows of new classes are the network's own.
    for name in fit.partly:
        assert (own.state_dict()[name] == before[name]).any(), name


@pytest.mark.parametrize("recipe", HEADS)
def test_weights_of_the_same_classes_stay_as_they_are(recipe: str) -> None:
    network = network_of(recipe, 3, seed=1)
    state = network.state_dict()
    for names in (None, FILE):
        fit = fit_classes(network_of(recipe, 3, seed=2), state, names, names)
        assert not fit.partly
        assert not fit.anew
        assert all(fit.weights[name] is value for name, value in state.items())


@pytest.mark.parametrize("recipe", HEADS)
def test_without_names_another_count_begins_all_classes_anew_and_keeps_the_boxes(recipe: str) -> None:
    file, own = network_of(recipe, 3, seed=1), network_of(recipe, 5, seed=2)
    fit = fit_classes(own, file.state_dict(), None, None)
    own.load_state_dict(fit.weights)
    assert fit.kept_classes == []
    assert fit.partly
    if recipe != "yolov10n":
        boxes = 5 if own.output_kind.has_objectness else 4
        torch.testing.assert_close(decoded(own)[:, :boxes], decoded(file)[:, :boxes])


def test_class_branches_that_are_narrower_for_fewer_classes_are_begun_anew() -> None:
    file, own = network_of("yolov8n", 80, seed=1), network_of("yolov8n", 3, seed=2)
    fit = fit_classes(own, file.state_dict(), None, None)
    assert fit.anew
    assert all("class_branches" in name for name in fit.anew)
    own.load_state_dict(fit.weights)
    torch.testing.assert_close(decoded(own)[:, :4], decoded(file)[:, :4])


def test_the_same_count_of_other_classes_keeps_no_class() -> None:
    file, own = network_of("yolov5n", 2, seed=1), network_of("yolov5n", 2, seed=2)
    fit = fit_classes(own, file.state_dict(), ["red", "green"], ["cat", "dog"])
    assert fit.kept_classes == []
    assert len(fit.partly) == 6


def test_classes_in_another_order_change_places() -> None:
    file, own = network_of("yolov5n", 2, seed=1), network_of("yolov5n", 2, seed=2)
    fit = fit_classes(own, file.state_dict(), ["dog", "cat"], ["cat", "dog"])
    own.load_state_dict(fit.weights)
    torch.testing.assert_close(decoded(own)[:, [5, 6]], decoded(file)[:, [6, 5]])


@pytest.mark.parametrize("recipe", sweep())
def test_each_head_says_which_outputs_have_a_row_for_each_class(recipe: str) -> None:
    network = network_of(recipe, 7, seed=1)
    head = network.head_layer
    width = head.num_anchors * (head.rows_before_classes + 7)
    outputs = head.class_tensors()
    assert outputs
    assert all(width in value.shape[:2] for value in outputs.values())
    # Nothing else changes its shape with the classes but what lies in the same parts.
    other = network_of(recipe, 90, seed=1).state_dict()
    parts = tuple(f".{part}." for part in head.class_parts)
    for name, value in network.state_dict().items():
        assert value.shape == other[name].shape or any(part in name for part in parts), name
