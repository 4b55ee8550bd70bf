"""What a detector's outputs are worth: suppression of duplicates and COCO figures.

Nothing is imported here: `evaluation.coco` must work without torch, `evaluation.nms` needs it.
"""
