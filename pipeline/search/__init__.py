from pipeline import quick_imports  # noqa: F401
