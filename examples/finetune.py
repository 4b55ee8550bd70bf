"""Finetunes trained weights on images of one's own, and says what each class has gained.

    python examples/finetune.py yolov8n yolov8n.safetensors my/data.yaml epochs=20

Recipe, weights (a file, a run folder, or "published"), data set; then any settings.
"""

import sys

from yoloflow import Detector, load_config, train


def finetune(recipe: str, weight: str, data: str, *settings: str) -> dict[str, float]:
    """Trains with the gentle settings that weights to start from bring; returns the best AP and AP50."""
    config = load_config(recipe, [f"weight={weight}", f"data={data}", *settings])
    summary = train(config)
    for row in summary["per_class"]:
        print(f"{row['name']:20} {row['num_objects']:6} objects  AP {row['ap']}")
    best: dict[str, float] = summary["best"]
    print(f"best epoch {best['epoch']}: AP {best['map']:.3f}, AP50 {best['map50']:.3f}")
    return best


def show(run: str, image: str) -> None:
    """Prints and draws what the finetuned network finds in an image."""
    (found,) = Detector.load(run)(image)
    for detection in found:
        print(f"{detection.name} {detection.score:.2f} {detection.box_xyxy}")
    found.save("found.jpg")


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    finetune(*sys.argv[1:])
