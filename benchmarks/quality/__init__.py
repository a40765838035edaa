"""How good each way of choosing channels is, with and without the same recovery.

    python -m benchmarks.quality SETTINGS.yaml --work DIR [--data DIR] [--docs DIR]

Everything is kept in the work folder, and the same command continues after an interruption: data
and answers are made by the pipeline's own stages, rankings and results are files of their own.
"""
