"""The store of results: files, locks, manifests, the store itself, and what is in it."""

from pipeline.artifacts.files import (
    copy_atomically,
    digest,
    file_sha256,
    json_lines,
    link_atomically,
    replacing,
    sweep_temporaries,
    sync_folder,
    write_atomically,
    write_json,
)
from pipeline.artifacts.locks import is_held, locked, marked
from pipeline.artifacts.manifest import CHECKPOINTS, MANIFEST, Recipe, check, damaged, read_manifest
from pipeline.artifacts.store import LINKS, PARTIAL, RUNNING, Store, is_artifact
