from transformers import AutoConfig, AutoModel

from .configuration_omni123 import Omni123Config
from .modeling_omni123 import Omni123ForConditionalGeneration, Omni123Output, parameter_table
from .tasks import TASKS, Segment, Sequence, Step, Task, build_sequence, generation_plan, get_task


AutoConfig.register(Omni123Config.model_type, Omni123Config, exist_ok=True)
AutoModel.register(Omni123Config, Omni123ForConditionalGeneration, exist_ok=True)
