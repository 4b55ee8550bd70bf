"""Recipes and settings: YAML files read into typed, frozen sections.

`recipes` lists the recipes, `document` reads YAML with the line of every key, `reader` makes the `Config`
of `schema`, and `mindyolo` and `dataset_file` translate files written for other programs.
"""
