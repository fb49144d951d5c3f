"""Names in a folder of outputs that every floor knows."""

LATEST = "latest"  # the link to the newest run folder
SUMMARY = "summary.json"  # a run's results
COMPLETED = "completed"  # its status there
