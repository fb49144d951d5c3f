"""The typed schema of every configuration key: types and ranges. Imports no torch, so that `--help` is quick.

Unknown keys and wrong types fail when Hydra composes; ranges fail in `__post_init__`, when the composed configuration
becomes objects. What needs a teacher or a text to be judged is checked in the stages' plans.
"""

from pipeline.config.choices import (
    AttentionScale,
    CacheKind,
    CacheMode,
    Cluster,
    Count,
    DataSource,
    Device,
    Dtype,
    Exportable,
    ExportForm,
    Fitness,
    GGUFKind,
    Granularity,
    HeadPairs,
    Init,
    Layers,
    Loss,
    OrderingKind,
    Precision,
    SampleBy,
    ScheduleKind,
    Sharing,
    Source,
    Start,
    Strategy,
    TrackerKind,
)
from pipeline.config.distill import (
    CacheConfig,
    CheckpointConfig,
    ControlConfig,
    DeepSpeedConfig,
    DistillConfig,
    ScheduleConfig,
)
from pipeline.config.inputs import DataConfig, TeacherConfig
from pipeline.config.launching import GRACE, LauncherConfig
from pipeline.config.run import (
    ON_REQUEST,
    STAGES,
    Config,
    EvaluateConfig,
    ExportConfig,
    SampleConfig,
    SpeedConfig,
    TrackerConfig,
    checked,
    is_material,
    material,
    register,
    to_objects,
    to_plain,
    walk,
)
from pipeline.config.search import (
    FROM_A_POPULATION,
    CrossoverConfig,
    LimitConfig,
    MutationConfig,
    RerankConfig,
    SearchConfig,
)
from pipeline.config.study import StudyConfig
from pipeline.config.subnetworks import BinConfig, OrderingConfig, RecoverConfig, Sizes, SpaceConfig
from pipeline.config.unread import unread
