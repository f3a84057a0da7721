"""Self-distillation of the shape encoder in training (Cube 3D, arXiv 2503.15475: an averaged teacher, weight 0.0005).

Cube 3D states: an EMA teacher; a student that sees randomly masked queries; MLP heads that give prototype scores;
cross-entropy of the student to the teacher without gradient. It states no head, mask ratio, momentum or temperature:

- Masked queries are left out. The encoder's learned queries carry no position beside themselves, so rows that all hold
  one mask vector would be copies of each other; without them the pass is cheaper. The class query always stays.
- The scores are those of the class token, with DINO's head (three-layer MLP to a unit vector, then cosines to
  unit prototypes), DINO's centring of the teacher's scores and its temperatures.

Nothing here belongs to the saved tokenizer. A training run keeps `state_dict()` beside its checkpoints.
"""

from copy import deepcopy
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from .configuration_shape_tokenizer import Omni123ShapeTokenizerConfig
from .quantization import is_distributed, sum_over_ranks


if TYPE_CHECKING:
    from .modeling_shape_tokenizer import Omni123ShapeTokenizer


class PrototypeHead(nn.Module):
    """Scores in [-1, 1] of class tokens: `(B, hidden) -> (B, ssl_num_prototypes)`."""

    def __init__(self, config: Omni123ShapeTokenizerConfig):
        super().__init__()
        size = config.ssl_head_size
        self.layers = nn.Sequential(
            nn.Linear(config.hidden_size, size),
            nn.GELU(),
            nn.Linear(size, size),
            nn.GELU(),
            nn.Linear(size, config.ssl_bottleneck_size),
        )
        self.prototypes = nn.Parameter(torch.randn(config.ssl_num_prototypes, config.ssl_bottleneck_size) * 0.02)

    def forward(self, class_token: torch.Tensor) -> torch.Tensor:
        return F.linear(F.normalize(self.layers(class_token), dim=-1), F.normalize(self.prototypes, dim=-1))


class ShapeSelfDistillation(nn.Module):
    """Teacher, heads and centre for `student_model`, which is not kept: each call is given it.

    The teacher starts as a copy of the student's encoder and stays in evaluation mode. Under data parallel training
    call `average_gradients` before the optimiser's step, for the student's head is no part of the wrapped model.
    """

    center: torch.Tensor

    def __init__(self, student_model: "Omni123ShapeTokenizer"):
        super().__init__()
        self.config = student_model.config
        self.student_head = PrototypeHead(self.config).to(student_model.device)
        self.teacher = nn.ModuleDict(
            {
                "point_embedding": deepcopy(student_model.point_embedding),
                "encoder": deepcopy(student_model.encoder),
                "head": deepcopy(self.student_head),
            }
        )
        # In float32 whatever the student: steps of 0.4 % are lost in half precision.
        self.teacher.float().requires_grad_(False)
        # Persistent: a resumed run must not forget it.
        self.register_buffer("center", torch.zeros(self.config.ssl_num_prototypes, device=student_model.device))
        self.train()

    def train(self, mode: bool = True) -> "ShapeSelfDistillation":
        super().train(mode)
        self.teacher.eval()
        return self

    def loss(
        self, student_model: "Omni123ShapeTokenizer", points: torch.Tensor, normals: torch.Tensor
    ) -> torch.Tensor:
        """Cross-entropy (nats, mean over B) of the student's prototypes to the teacher's, for `points`, `normals (B, N, 3)`.

        In training mode it also moves the centre, so every rank must take part.
        """
        targets = self.teacher_targets(points, normals)
        encoder = student_model.encoder
        queries = self.visible_queries(encoder.query, len(points))
        class_token = encoder(student_model.point_embedding(points), normals, queries)[:, 0]
        scores = self.student_head(class_token.to(self.student_head.prototypes.dtype)).float()
        return -(targets * (scores / self.config.ssl_student_temperature).log_softmax(-1)).sum(-1).mean()

    @torch.no_grad()
    def teacher_targets(self, points: torch.Tensor, normals: torch.Tensor) -> torch.Tensor:
        """The teacher's prototype probabilities `(B, ssl_num_prototypes)`, from all queries."""
        class_token = self.teacher["encoder"](self.teacher["point_embedding"](points), normals)[:, 0]
        scores = self.teacher["head"](class_token.to(self.student_head.prototypes.dtype)).float()
        targets = ((scores - self.center) / self.config.ssl_teacher_temperature).softmax(-1)
        if self.training:
            mean = sum_over_ranks(scores.sum(0)) / sum_over_ranks(scores.new_tensor(len(scores)))
            self.center.lerp_(mean, 1 - self.config.ssl_center_momentum)
        return targets

    def visible_queries(self, query: torch.Tensor, batch: int) -> torch.Tensor:
        """The class query and, for each of `batch` samples, another random choice of the latent `query` rows, in order."""
        latents = len(query) - 1
        kept = max(1, round(latents * (1 - self.config.ssl_mask_ratio)))
        order = torch.rand(batch, latents, device=query.device).argsort(dim=-1)[:, :kept].sort(dim=-1).values
        return torch.cat([query[:1].expand(batch, -1, -1), query[1:][order]], dim=1)

    @torch.no_grad()
    def update_teacher(self, student_model: "Omni123ShapeTokenizer") -> None:
        """Moves the teacher towards the student by `1 - ssl_momentum`; call after each step of the optimiser."""
        students = (student_model.point_embedding, student_model.encoder, self.student_head)
        for student, teacher in zip(students, self.teacher.values(), strict=True):
            for new, old in zip(student.parameters(), teacher.parameters(), strict=True):
                old.lerp_(new.to(old.dtype), 1 - self.config.ssl_momentum)

    @torch.no_grad()
    def average_gradients(self) -> None:
        """Averages the gradients of the student's head over ranks."""
        if is_distributed():
            for parameter in self.student_head.parameters():
                torch.distributed.all_reduce(parameter.grad)
                parameter.grad.div_(torch.distributed.get_world_size())  # type: ignore[union-attr]
