"""The programs of the project: train, evaluate, studies, benchmarks."""
