"""The seeded reference arrays are those of the fixture files, bit for bit."""

from pathlib import Path

import numpy as np

from tests.support.reference import reference_arrays, reference_inputs


def test_the_weights_drawn_from_the_seed_are_the_stored_ones(shared: Path) -> None:
    with np.load(shared / "fixtures/yolov8/weights.npz") as stored:
        drawn = reference_arrays("yolov8")
        assert set(drawn) == set(stored.files)
        for name, array in drawn.items():
            assert array.dtype == stored[name].dtype, name
            np.testing.assert_array_equal(array, stored[name], err_msg=name)


def test_the_batch_drawn_from_the_seed_is_the_stored_one(shared: Path) -> None:
    images, targets = reference_inputs("yolov8")
    with np.load(shared / "fixtures/yolov8/io_pynative_fp32.npz") as stored:
        np.testing.assert_array_equal(images, stored["images"])
        np.testing.assert_array_equal(targets, stored["targets"])
