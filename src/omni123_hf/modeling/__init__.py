"""The models, their configurations and the task table. Importing this registers them with transformers' Auto classes."""

from transformers import AutoConfig, AutoModel

from .configuration_image_tokenizer import Omni123ImageTokenizerConfig
from .configuration_image_vae import Omni123ImageVAEConfig
from .configuration_omni123 import Omni123Config
from .configuration_shape_tokenizer import Omni123ShapeTokenizerConfig
from .modeling_image_tokenizer import Omni123ImageTokenizer
from .modeling_image_vae import Omni123ImageVAE
from .modeling_omni123 import Omni123ForConditionalGeneration, Omni123Output
from .modeling_shape_tokenizer import Omni123ShapeTokenizer, Omni123ShapeTokenizerOutput
from .parameter_tables import (
    image_tokenizer_parameter_table,
    image_vae_parameter_table,
    parameter_table,
    shape_tokenizer_parameter_table,
)
from .shape_grid_field import ShapeField, ShapeGridField
from .tasks import TASKS, Segment, Sequence, Step, Task, build_sequence, generation_plan, get_task


__all__ = [
    "TASKS",
    "Omni123Config",
    "Omni123ForConditionalGeneration",
    "Omni123ImageTokenizer",
    "Omni123ImageTokenizerConfig",
    "Omni123ImageVAE",
    "Omni123ImageVAEConfig",
    "Omni123Output",
    "Omni123ShapeTokenizer",
    "Omni123ShapeTokenizerConfig",
    "Omni123ShapeTokenizerOutput",
    "Segment",
    "Sequence",
    "ShapeField",
    "ShapeGridField",
    "Step",
    "Task",
    "build_sequence",
    "generation_plan",
    "get_task",
    "image_tokenizer_parameter_table",
    "image_vae_parameter_table",
    "parameter_table",
    "shape_tokenizer_parameter_table",
]

for config_class, model_class in (
    (Omni123Config, Omni123ForConditionalGeneration),
    (Omni123ShapeTokenizerConfig, Omni123ShapeTokenizer),
    (Omni123ImageVAEConfig, Omni123ImageVAE),
    (Omni123ImageTokenizerConfig, Omni123ImageTokenizer),
):
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    AutoModel.register(config_class, model_class, exist_ok=True)
