"""From the files of a label tool to a report: checks the data, trains, evaluates, and draws what is found.

    python examples/own_data.py helmets/Annotations yolov8n-small-data epochs=100 name=helmets

The first argument is what a label tool has written: a folder of VOC xml (such as SHWD's helmets), a COCO
json, or a folder or list of images with YOLO txt beside them (then also 'data.names=[hat, person]').
A fifth of the images is held out for validation, the same fifth each time.
"""

import sys
from pathlib import Path

from yoloflow import Detector, load_config, train
from yoloflow.check import check_data
from yoloflow.evaluate import evaluate_run


def main(labels: str, recipe: str, *settings: str) -> None:
    config = load_config(recipe, [f"data.train_set={labels}", "data.val_fraction=0.2", *settings])

    # Boxes outside of images, damaged files, unknown classes, equal images: all are counted and named.
    check = check_data(config)
    print(check.describe())
    if check.errors:
        sys.exit(1)

    train(config)
    run = Path(config.save_dir, config.name or recipe)

    result = evaluate_run(str(run))
    for row in sorted(result.coco.per_class, key=lambda row: row.ap or 0.0):
        print(f"{row.name:20} {row.num_objects:6} objects  AP {row.ap}  AP50 {row.ap50}")

    detector = Detector.load(run)
    folder = run / "found"
    folder.mkdir(exist_ok=True)
    images = [image.path for image in result.examples]
    for image, found in zip(images, detector(images), strict=True):
        found.save(folder / f"{image.stem}.jpg")
    print(f"{folder}: {len(images)} images; {run / 'report.html'}: the page about the run")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
