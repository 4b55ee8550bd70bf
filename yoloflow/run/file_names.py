"""Names of the files in a run folder; importing them brings no torch, which `yoloflow watch` does without."""

CONFIG = "config.yaml"
NAMES = "names.json"
DATA_PROBLEMS = "data_problems.json"
METRICS = "metrics.jsonl"
SUMMARY = "summary.json"
DIAGNOSTICS = "diagnostics.json"
REPORT = "report.html"
